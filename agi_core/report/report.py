"""The report of a run: one self-contained HTML file that may be shared, from its record: no subject id."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from agi_core.cells import is_vocabulary
from agi_core.report import in_words, sections
from agi_core.report.diagnostics import diagnostics
from agi_core.report.examples import read_examples
from agi_core.report.intervals import over_sites
from agi_core.report.markup import db, moment, plural, signed_db, words
from agi_core.report.page import origin_notice, resource, write_page
from agi_core.report.record import RunRecord, read_run
from agi_core.report.study_report import build_study_report
from agi_core.run import run_folder
from agi_core.run.duration import duration
from agi_core.run.scores import Scores
from agi_core.scenario import parse_scenario

REGRESSION = "the cubic regression on aligned sources"
"""The baseline `regression_pooled`, and not `voxel_regression`, whose sources lie where they were acquired."""


def build_report(run_dir: Path) -> Path:
    """Write `report.html` of a run, finished or not, and return its path.

    Raises:
        RunError: there is no run in the folder, one of its files is damaged, or the report cannot be written.
    """
    if is_vocabulary(run_folder.open_existing(run_dir).scenario):
        return build_study_report(run_dir)
    record = read_run(run_dir)
    shown = read_examples(run_dir)
    body = (
        sections.columns(record),
        sections.sites(record),
        sections.interval(record),
        sections.styles(record),
        sections.taking_part(record),
        sections.comparison(record),
        sections.examples(shown, deployed=record.deployed),
        sections.training(record),
        sections.on_the_way(shown),
        diagnostics(shown),
        sections.privacy(record),
        sections.what_was_run(record),
        sections.messages(record),
        "".join(resource("how_to_read.html").splitlines()) + "\n",
    )
    scenario = parse_scenario(record.config.scenario)
    title = f"{record.model_name}: {' + '.join(scenario.sources)} → {scenario.target}"
    contents = f"The report holds {'no images,' if record.deployed else 'example slices but no'} names or subject ids."
    path = run_dir / "report.html"
    write_page(
        path,
        title=title,
        kicker=f"Federated training of MR image synthesis · run {run_dir.resolve().name}",
        lead=" ".join(filter(None, (*_result(record), in_words.held_back(record.config.data.unseen_anatomy)))),
        contents=contents,
        body_html="".join(body),
        notices_html=_notices(record),
        tiles_html=_tiles(record),
        below=_in_short(record),
    )
    return path


def _notices(record: RunRecord) -> str:
    notices = origin_notice(synthetic=record.synthetic, anatomies=record.anatomies, deployed=record.deployed)
    if not record.finished:
        done = f"{len(record.rounds)} of {plural(record.config.rounds, 'round')} done"
        command = f"<code>{escape(record.resume_command)}</code>"
        notices += (
            f'<p class="notice unfinished"><strong>This run is not finished</strong>: {done}. To go on: {command}</p>'
        )
    return notices


def _result(record: RunRecord) -> Iterator[str]:
    """The outcome in sentences."""
    scenario, scores = parse_scenario(record.config.scenario), record.federated
    trained = f"{record.model_name}, trained federated over {_sites(record)},"
    task = f"{scenario.target} from {words(scenario.sources)}"
    if scores is None:
        yield f"{trained} to synthesise {task}, has not been tested yet."
        return
    if scores.final:
        psnr = scores.final["psnr_db"]
        tested = f"mean over {plural(scores.subjects, 'test subject')}"
        yield f"{trained} synthesises {task} with a PSNR of {db(psnr)} ({tested})"
        regression = record.baselines.get("regression_pooled", Scores({}))
        if (gain := scores.gain_db(regression)) is not None:
            compared = f"{signed_db(gain)}{_at_few(scores, regression)}"
            yield f"against {db(regression.final['psnr_db'])} of {REGRESSION} ({compared})."
        else:
            yield f"({REGRESSION} was not run)."
        if (worst := scores.worst_site) is not None and len(scores.sites) > 1:
            whose = "" if record.personal is None else " of the global model"
            yield f"The worst site{whose} is {worst} with {db(scores.sites[worst].psnr_db)}."
        yield from _personal(record)
    elif record.suppressed:
        yield f"{trained} synthesises {task}. Its test figures are suppressed by the policies of the sites."
    else:
        yield f"{trained} synthesises {task}. No training site has a test subject."
    for site, score in scores.unseen_sites.items():
        yield f"{site}, which took no part in training, reaches {db(score.psnr_db)}."
    if over := _unseen_over_regression(record):
        where = "There" if len(scores.unseen_sites) == 1 else "At these sites"
        yield f"{where} that is {over} against {REGRESSION}."


def _sites(record: RunRecord) -> str:
    """The sites that trained; of how many, where others were invited."""
    invited, trained = len(record.config.federation.sites), len(record.trained)
    if trained == invited or not record.rounds:
        return plural(invited, "site")
    return f"{trained} of {plural(invited, 'invited site')}"


def _personal(record: RunRecord) -> Iterator[str]:
    """What a site has of its own weights, against what it could have without a federation."""
    if record.personal is None:
        return
    psnr = record.personal.final["psnr_db"]
    others = {
        "own regression": "regression_per_site",
        "the same on the public start, which spends no epsilon": "public_own_last_layer",
        "training alone": "local_only",
    }
    against = []
    for what, name in others.items():
        other = record.baselines.get(name, Scores({}))
        if (gain := record.personal.gain_db(other)) is not None:
            against.append(f"{signed_db(gain)} against {what}{_at_few(record.personal, other)}")
    of_all = record.federated is None or len(record.personal.sites) == len(record.federated.sites)
    whose = "each site has" if of_all else f"{words(record.personal.sites)} have"
    yield f"With {in_words.its_own(record.config)} {whose} {db(psnr)}" + (f": {words(against)}." if against else ".")


def _at_few(scores: Scores, other: Scores) -> str:
    """At how many sites a method is compared with another, where that was not scored at all of them."""
    both, _ = scores.at_both(other)
    return "" if len(both.sites) == len(scores.sites) else f" at {plural(len(both.sites), 'site')}"


def _unseen_over_regression(record: RunRecord) -> str:
    """PSNR of the common model minus that of the pooled regression, at the unseen sites; "" where it is not known."""
    scores, regression = record.federated or Scores({}), record.baselines.get("regression_pooled", Scores({}))
    gain = scores.unseen.gain_db(regression.unseen)
    return "" if gain is None else signed_db(gain) + _at_few(scores.unseen, regression.unseen)


def _tiles(record: RunRecord) -> str:
    """The few figures that a reader looks for first: name, value, and what it is of."""
    scores = record.federated
    if scores is None or not (scores.final or scores.unseen_sites):
        return ""
    aligned = sections.BASELINES["regression_pooled"]
    tiles: list[tuple[str, str, str]] = []
    if scores.final:
        psnr, tested = scores.final["psnr_db"], f"mean of {plural(scores.subjects, 'test subject')}"
        interval = over_sites([score.psnr_db for score in scores.sites.values()])
        spread = f"; 95 % over sites: {db(interval.low)} to {db(interval.high)}" if interval else ""
        of_global = "" if record.personal is None else "Global "
        tiles.append((f"{of_global}PSNR", db(psnr), tested + spread))
        tiles += [(f"{of_global}SSIM", f"{scores.final['ssim']:.3f}", tested)] if "ssim" in scores.final else []
        regression = record.baselines.get("regression_pooled", Scores({}))
        if (gain := scores.gain_db(regression)) is not None:
            tiles.append(
                (f"Over {aligned}", signed_db(gain), f"{of_global}PSNR, same subjects{_at_few(scores, regression)}")
            )
        if record.personal is not None:
            few = len(record.personal.sites) < len(scores.sites)
            where = f" at {len(record.personal.sites)} of {plural(len(scores.sites), 'site')}" if few else ""
            of = f"mean of {plural(record.personal.subjects, 'test subject')}{where}"
            tiles.insert(0, ("Personal PSNR", db(record.personal.final["psnr_db"]), of))
    if (worst := scores.worst_site) is not None and len(scores.sites) > 1:
        whose = "" if record.personal is None else ", global"
        tiles.append((f"Worst site{whose}", db(scores.sites[worst].psnr_db), worst))
    if scores.unseen_sites:
        name = "Unseen site" if len(scores.unseen_sites) == 1 else "Unseen sites"
        against = f"; {over} against {aligned}" if (over := _unseen_over_regression(record)) else ""
        tiles.append((name, db(scores.unseen_psnr_db), words(scores.unseen_sites) + against))
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _in_short(record: RunRecord) -> str:
    """The size of the run in one line."""
    config = record.config
    told = record.training_subjects
    subjects = sum(told.get(site) or record.splits.get(site, {}).get("train", 0) for site in config.federation.sites)
    rounds, steps = plural(config.rounds, "round"), plural(config.training.local_steps, "local step")
    parts = (
        _sites(record) + ("" if record.rounds else " invited"),
        *([plural(subjects, "training subject")] if subjects else []),
        f"{rounds} of {steps} with {in_words.each_step(config)}",
        f"seed {config.seed}",
        duration(record.wall_s),
        *([f"{moment(record.began)} to {moment(record.ended)}"] if record.began and record.ended else []),
    )
    return " · ".join(parts)
