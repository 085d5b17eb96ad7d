"""The sections of the report, each from a run record (or its example slices) to HTML."""

from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np

from agi_core.metric_table import (
    METRIC_NAMES,
    METRICS,
    REGIONS,
    psnr_db,
)
from agi_core.report import figures, in_words
from agi_core.report.blocks import blocks, ranges
from agi_core.report.examples import Example, Image
from agi_core.report.intervals import Interval, over_sites
from agi_core.report.markup import (
    bullets,
    db,
    mark,
    moment,
    pages,
    panels,
    paragraph,
    plot,
    plural,
    row,
    section,
    signed_db,
    table,
    words,
)
from agi_core.report.participation import Part
from agi_core.report.record import Problem, RunRecord
from agi_core.report.small_multiples import small_multiples
from agi_core.report.tumours import in_tissue, segmented
from agi_core.run.duration import duration
from agi_core.run.scores import Metrics, Scores, SiteScore
from agi_core.scenario import parse_scenario

BASELINES = {
    "initial_weights": "initial weights",
    "voxel_regression": "voxel regression",
    "regression_pooled": "regression, aligned",
    "regression_per_site": "regression per site",
    "local_only": "local-only",
    "public_own_last_layer": "public start, own last layer",
    "centralised": "centralised",
    "without_privacy": "federated without privacy",
}
MAX_EXAMPLES, MAX_SLICES = 8, 12  # keep the file below 2 MB, small enough for an e-mail
MAX_PROBLEMS = 300  # the same

_EPSILONS = {
    "epsilon_run": "This run",
    "epsilon": "All runs on these subjects",
    "epsilon_rdp": "The same by RDP, a looser bound",
}
_WORST, _UNSEEN = mark("worst", "worst site"), mark("unseen", "unseen site")
_UNTRAINED = mark("untrained", "did not train")


def columns(record: RunRecord) -> str:
    """What each site can have, side by side: alone, global, personal."""
    alone, shared, personal = record.baselines.get("local_only"), record.federated, record.personal
    if shared is None or not (shared.final or shared.unseen_sites) or (alone is None and personal is None):
        return ""

    def psnr(scores: Scores | None, site: str) -> float | None:
        score = scores and {**scores.sites, **scores.unseen_sites}.get(site)
        return score.psnr_db if score else None

    def cells(values: Sequence[float | None]) -> list[str]:
        without, *_, best = values
        gain = signed_db(best - without) if without is not None and best is not None else "–"
        return [*map(db, values), gain]

    methods = {"Alone": alone, "Global": shared} | ({"Personal": personal} if personal else {})
    rows = [row(_coloured(record, site), cells([psnr(its, site) for its in methods.values()])) for site in shared.sites]
    scored = [site for site in shared.sites if all(psnr(its, site) is not None for its in methods.values() if its)]
    means = [its.among(scored).final.get("psnr_db") if its else None for its in methods.values()]
    whose = "all of these subjects" if len(scored) == len(shared.sites) else "sites with all figures"
    rows += [row(whose, cells(means), kind="total")] if shared.sites else []
    for site in shared.unseen_sites:
        rows.append(row(escape(site) + _UNSEEN, cells([psnr(its, site) for its in methods.values()])))
    heads = ("Site", *methods, f"{[*methods][-1]} minus alone")
    meaning = (
        "PSNR on the same test subjects. Alone: the site's own model, trained as long without the others. Global: the"
        " common model, as a hospital gets it that took no part."
    )
    own = f" Personal: {in_words.personal_model(record.config)}." if personal else ""
    missing = " Nobody was trained alone in this run." if alone is None else ""
    if alone and set(shared.sites) - set(alone.sites):
        missing = " A site without a figure under Alone trains privately, does not allow it, or did not answer in time."
    elsewhere = f" Alone at an unseen site: {in_words.ALONE_ELSEWHERE}." if alone and alone.unseen_sites else ""
    return section(
        "What a site gains", table(heads, rows, kind="metrics") + paragraph(meaning + own + elsewhere + missing)
    )


def sites(record: RunRecord) -> str:
    """Test figures per site, with the worst and the unseen sites named."""
    scores, config = record.federated, record.config
    if scores is None:
        return section(
            "Quality per site", paragraph("The model has not been tested yet: the test follows the last round.")
        )
    rows = []
    for site, score in scores.sites.items():
        worst = _WORST if site == scores.worst_site and len(scores.sites) > 1 else ""
        rows.append(row(_coloured(record, site) + worst, _figures(score)))
    suppressed = ["–", "suppressed", *["–"] * (len(METRIC_NAMES) - 1)]
    rows += [row(_coloured(record, site), suppressed) for site in record.suppressed]
    if scores.final:
        rows.append(row("all of these subjects", _figures(SiteScore(scores.final, scores.subjects)), kind="total"))
    rows += [row(escape(site) + _UNSEEN, _figures(score)) for site, score in scores.unseen_sites.items()]

    groups = dict.fromkeys(("Whole volume", "Foreground"), len(METRICS))
    columns = ["Site", "Test subjects", *[metric.label for metric in METRICS.values()] * len(REGIONS)]
    caption = f"{record.model_name} after round {record.tested_round}, mean over the subjects of each site"
    notes = [_sentence(record.last_layer.said)] if record.last_layer else []
    if interval := over_sites([score.psnr_db for score in scores.sites.values()]):
        notes.append(
            f"PSNR as a mean over {interval.sites} sites: {db(interval.mean)}, with a 95 % confidence interval of"
            f" {db(interval.low)} to {db(interval.high)}. It is over sites, because no figure of one subject leaves a"
            " site."
        )
    if held_back := in_words.held_back(config.data.unseen_anatomy):
        notes.append(held_back)
    if record.suppressed:
        notes.append("Suppressed: the site's policy lets no figures of so few subjects leave, or none of this kind.")
    if untested := sorted(set(config.federation.sites) - set(scores.sites) - set(record.suppressed)):
        notes.append(f"Not scored, without test subjects or without an answer to the test: {words(untested)}.")
    if scores.unseen_sites:
        limit = config.evaluation.max_subjects
        notes.append(f"Unseen sites took no part in training; at most {plural(limit, 'subject')} of each, scored once.")
    body = table(columns, rows, groups=groups, caption=caption, kind="metrics") + paragraph(" ".join(notes))
    told = _headed(record, scores)
    tumours = in_tissue(told) + segmented(told, asked=record.config.evaluation.segmenter)
    return section("Quality per site", body + tumours)


def _headed(record: RunRecord, scores: Scores) -> list[tuple[str, Metrics]]:
    """(heading of the site, what it told) of all sites, unseen ones last."""
    headings = {site: _coloured(record, site) for site in scores.sites}
    headings |= {site: escape(site) + _UNSEEN for site in scores.unseen_sites}
    return [(headings[site], score.metrics) for site, score in {**scores.sites, **scores.unseen_sites}.items()]


def interval(record: RunRecord) -> str:
    """The 90 % interval, what it covers at each site, and the known range; empty where sites were not asked."""
    solved = record.interval
    if solved is None:
        return ""
    rows = [
        row(_coloured(record, site), [count, f"{solved.covered[site]:.0%}" if site in solved.covered else "–"])
        for site, count in solved.subjects.items()
    ]
    rows += [row(_coloured(record, site), ["–", "–"]) for site in solved.left_out]
    meaning = (
        "Expected errors are a volume that synthesize --uncertainty writes. Those of a site were foreseen by a layer of"
        " the other sites, as at a new hospital. The shares are about 90 % in the mean, because the factor was chosen"
        " so: how far they lie apart is what a new hospital may see."
    )
    body = table(("Site", "Validation subjects", "Voxels within the interval"), rows) + paragraph(meaning)
    known = paragraph(_sentence(record.known_range.said)) if record.known_range else ""
    return section(
        "How far to trust a volume", paragraph(_sentence(solved.said)) + (body if solved.covered else "") + known
    )


def _sentence(said: str) -> str:
    """A line of the terminal, as a sentence."""
    return f"{said[:1].upper()}{said[1:]}."


def styles(record: RunRecord) -> str:
    """Whose own last layer the run has; empty where sites were not asked."""
    if record.styles is None:
        return ""
    meaning = (
        f"{_sentence(record.styles.said)} Such a layer was solved from that site's own subjects without noise, and"
        " makes volumes like that site's at a hospital that has no target to solve its own from."
    )
    return section("Last layers for other hospitals", paragraph(meaning))


def taking_part(record: RunRecord) -> str:
    """How often each invited site trained, and a grid of sites and rounds where not all did."""
    title, rounds = "Who took part", sorted(record.rounds)
    if not rounds:
        return section(title, paragraph("No round is finished yet, so nobody has trained."))
    counts = {site: Counter(parts.values()) for site, parts in record.participation.items()}
    others = [part for part in Part if part != Part.TRAINED and any(count[part] for count in counts.values())]
    rows = []
    for site, count in counts.items():
        cells = [f"{count[Part.TRAINED]} of {len(rounds)}", *(count[part] or "–" for part in others)]
        rows.append(row(_coloured(record, site), [*cells, _training_subjects(record, site)]))
    heads = ("Site", "Rounds trained", *(part.capitalize() for part in others), "Training subjects")
    note = ""
    if any(its.texts[-1].startswith("at most") for its in rows):
        note = "At most: as registered with the coordinator; the site has not told a number of its own."
    if not others:
        intro = f"All {plural(len(counts), 'invited site')} trained in all {plural(len(rounds), 'round')}."
        return section(title, paragraph(intro) + table(heads, rows) + paragraph(note))
    always = sum(count[Part.TRAINED] == len(rounds) for count in counts.values())
    intro = (
        f"Of {plural(len(counts), 'invited site')}, {len(record.trained)} trained, {always} of them in every one of"
        f" {plural(len(rounds), 'finished round')}."
    )
    return section(title, paragraph(intro) + _grid(record, rounds) + table(heads, rows) + paragraph(note))


def _training_subjects(record: RunRecord, site: str) -> str:
    told = record.training_subjects.get(site) or record.splits.get(site, {}).get("train")
    registered = record.config.federation.subjects.get(site)
    return str(told) if told is not None else f"at most {registered}" if registered else "–"


def _grid(record: RunRecord, rounds: Sequence[int]) -> str:
    """A row per site and a cell per finished round."""
    shown = [part for part in Part if any(part in parts.values() for parts in record.participation.values())]
    legend = "".join(f'<span><i class="{_class(part)}"></i>{part}</span>' for part in shown)
    lines, columns = [], blocks(rounds)
    for site, parts in record.participation.items():
        cells = "".join(_cell(block, [parts[n] for n in block]) for block in columns)
        trained = sum(part == Part.TRAINED for part in parts.values())
        label = f"{site}: trained in {trained} of {plural(len(rounds), 'round')}"
        lines.append(f'<b>{escape(site)}</b><div role="img" aria-label="{escape(label)}">{cells}</div>')
    ends = f"<span>round {rounds[0]}</span><span>round {rounds[-1]}</span>"
    axis = f'<b></b><div class="axis">{ends}</div>' if len(rounds) > 1 else ""
    together = len(columns[0])
    if together > 1:
        legend += f"<span>A cell is {together} rounds, coloured from below by the share without training.</span>"
    return f'<p class="legend">{legend}</p><div class="grid">{"".join(lines)}{axis}</div>'


def _cell(rounds: Sequence[int], parts: Sequence[Part]) -> str:
    """What a site did in neighbouring rounds: its most frequent reason for not training, as high as its share."""
    others = Counter(part for part in parts if part != Part.TRAINED)
    if not others:
        return "<i></i>"
    (reason, _), *_ = others.most_common()
    if len(rounds) == 1:
        return f'<i class="{_class(reason)}" title="round {rounds[0]}: {reason}"></i>'
    share = round(100 * others.total() / len(parts))
    told = ", ".join(f"{part} {count}" for part, count in others.items())
    title = f"rounds {rounds[0]} to {rounds[-1]}: {told}"
    return f'<i class="{_class(reason)}" style="--s:{share}%" title="{title}"></i>'


def _class(part: Part) -> str:
    return part.split()[-1] if part != Part.TRAINED else ""


def comparison(record: RunRecord) -> str:
    """The baselines beside the federated model, how each was trained, and which were not run."""
    # These are of some runs only: of pre-trained weights, or of private training.
    optional = {"initial_weights", "public_own_last_layer", "without_privacy"}
    scores, baselines, not_run = record.federated, record.baselines, ""
    if record.deployed:
        not_run = paragraph(
            "Voxel regression and centralised training are not run: they need all scans in one place, and here each"
            " stays at its site."
        )
    elif missing := [name for method, name in BASELINES.items() if method not in {*baselines, *optional}]:
        command = f"{record.resume_command} --compare"
        not_run = f"<p><strong>Not run:</strong> {escape(words(missing))}. To add: <code>{escape(command)}</code></p>"
    if scores is None or not (scores.final or scores.unseen_sites) or not baselines:
        yet = "" if record.deployed else paragraph("There is nothing to compare yet.")
        return section("Comparison", yet + not_run)
    methods = {"federated": (f"{record.model_name}, federated", scores)}
    methods |= {"personal": ("personal", record.personal)} if record.personal else {}
    methods |= {method: (name, baselines[method]) for method, name in BASELINES.items() if method in baselines}
    trained = in_words.how_trained(record.config)
    rows: list[tuple[str, Sequence[str], Interval | None, str]] = []
    for method, (name, its) in methods.items():
        difference = "–" if its is scores else _mean_difference(scores, its)
        worst = f"{its.worst_site} {db(its.sites[its.worst_site].psnr_db)}" if its.worst_site is not None else "–"
        ssim = f"{its.final['ssim']:.3f}" if "ssim" in its.final else "–"
        cells = (db(its.final.get("psnr_db")), difference, ssim, worst, db(its.unseen_psnr_db))
        heading = f"{escape(name)}<small>{escape(trained[method])}</small>"
        rows.append((heading, cells, over_sites(_differences(scores, its)), "total" if its is scores else ""))
    against = f"{record.model_name} minus this"
    columns = ["Method", "PSNR", against, "SSIM", "Its worst site (PSNR)", "Unseen sites (PSNR)"]
    if any(interval for _, _, interval, _ in rows):
        columns.append("95 % interval of the difference, over sites")
        rows = [(heading, (*cells, _told(interval)), interval, kind) for heading, cells, interval, kind in rows]
    alt = "Test PSNR per site. " + " ".join(f"{name}: {_psnr_per_site(its)}." for name, its in methods.values())
    note = paragraph(
        "At each site all methods are scored on the same subjects, and a difference is over the sites that have both."
        " One seed: small differences may be chance."
    )
    body = (
        table(columns, [row(heading, cells, kind=kind) for heading, cells, _, kind in rows], kind="methods")
        + note
        + plot(figures.comparison(methods), alt=alt)
    )
    return section("Comparison", body + not_run)


def _mean_difference(scores: Scores, its: Scores) -> str:
    """PSNR of the one method minus that of the other, on test subjects, or where there are none at unseen sites."""
    for ours, theirs in ((scores, its), (scores.unseen, its.unseen)):
        if (gain := ours.gain_db(theirs)) is not None:
            return signed_db(gain)
    return "–"


def _differences(scores: Scores, its: Scores) -> list[float]:
    """PSNR of the one method minus that of the other at each site that has both, in dB; empty for the same method."""
    if its is scores:
        return []
    return [score.psnr_db - its.sites[site].psnr_db for site, score in scores.sites.items() if site in its.sites]


def _told(interval: Interval | None) -> str:
    return f"{signed_db(interval.low)} to {signed_db(interval.high)}" if interval else "–"


def _psnr_per_site(scores: Scores) -> str:
    sites = {**scores.sites, **scores.unseen_sites}
    return ", ".join(f"{site} {db(score.psnr_db)}" for site, score in sites.items())


def examples(shown: Sequence[Example], *, deployed: bool) -> str:
    """Sources, target, prediction and absolute error of each example slice."""
    title = "Example slices"
    if not shown:
        why = (
            "There are none: no scan leaves its site."
            if deployed
            else "There are none yet: they are made when the run is finished."
        )
        return section(title, paragraph(why))
    intro = (
        "Axial slices of test subjects, none of whom was trained on, in the radiological view: anterior (A) at the top,"
        " the patient's right (R) on the left. Intensities from 0 (black) to 1 (white), cut to the head. The"
        " predictions are the global model's."
    )
    if len(shown) > MAX_SLICES:
        intro += f" The first {MAX_SLICES} of {len(shown)} are shown."
    scale = (
        f'<p class="scale">Absolute error: 0 <img src="{figures.error_scale()}" alt="from black over red to yellow">'
        f" {figures.ERROR_SCALE} and above; the same scale in every report</p>"
    )
    return section(title, paragraph(intro) + scale + pages(_example(example) for example in shown[:MAX_SLICES]))


def _example(example: Example) -> str:
    target, prediction = np.clip(example.target, 0, 1), np.clip(example.prediction, 0, 1)
    quality = f"slice: {db(psnr_db(float(np.mean((prediction - target) ** 2))))}"
    target, prediction = example.as_seen(target), example.as_seen(prediction)
    images = [(f"Source {name}", "", figures.grey(example.as_seen(image))) for name, image in example.sources.items()]
    images += [
        ("Target", "", figures.grey(target)),
        ("Prediction", quality, figures.grey(prediction)),
        ("Absolute error", f"0 to {figures.ERROR_SCALE}", figures.error_map(prediction, target)),
    ]
    heading = f"<h3>{escape(example.title)}{_UNSEEN if example.unseen else ''}</h3>"
    slices = panels(images, title=example.title, aspect=example.aspect)
    return f'<section class="example">{heading}{slices}</section>'


def on_the_way(shown: Sequence[Example]) -> str:
    """A page for each round whose predictions were kept, of the same slices; the last one is real."""
    followed = [example for example in shown if example.earlier]
    if not followed:
        return ""
    intro = (
        f"The first slice of {words([example.site for example in followed])} on the way: what the common model made of"
        " it before training, after some of the rounds, and in the test; last, the real one."
    )
    rounds = sorted({round for example in followed for round in example.earlier})
    turned = [
        _moment(
            f"After round {round}" if round else "Before training",
            [(example, example.earlier[round]) for example in followed if round in example.earlier],
        )
        for round in rounds
    ]
    turned.append(_moment("In the test", [(example, example.prediction) for example in followed]))
    turned.append(_moment("Real", [(example, example.target) for example in followed]))
    return section("From round to round", paragraph(intro) + pages(turned))


def _moment(heading: str, images: Sequence[tuple[Example, Image]]) -> str:
    """One page: an image of each slice, and how near it is to the real one."""
    slices = ""
    for example, image in images:
        image, target = np.clip(image, 0, 1), np.clip(example.target, 0, 1)
        error = float(np.mean((image - target) ** 2))
        shown = (example.site, db(psnr_db(error)) if error else "", figures.grey(example.as_seen(image)))
        slices += panels([shown], title=heading, aspect=example.aspect)
    return f'<section class="example"><h3>{heading}</h3><div class="beside">{slices}</div></section>'


def training(record: RunRecord) -> str:
    """Curves per site, in one plot or one plot for each, and the best round."""
    psnr, loss = figures.lines(record)
    if not psnr and not loss and record.config.privacy.on:
        return section("Training", paragraph("Private: no figure of training or validation subjects leaves a site."))
    if not psnr and not loss:
        return section("Training", paragraph("No round is finished yet."))
    if any(event.sites for event in record.validation.values()):
        limit = record.config.evaluation.validation_slices
        volumes = record.config.model.dims == 3
        scored = (
            f"whole volumes of {limit} slices together, or one," if volumes else f"at most {plural(limit, 'slice')}"
        )
        notes = [f"Validation: {scored} per site, the same in every round; round 0 is the untrained model."]
    else:
        notes = ["No site tells of its validation, so there is no validation curve and no best round."]
    if held_back := sorted({site for event in record.validation.values() for site in event.suppressed}):
        notes.append(f"Validation is suppressed by the policies of {words(held_back)}.")
    if record.best:
        best = f"Best validation PSNR (median over sites): {db(record.best.psnr_db)} after round {record.best.round}."
        notes.append(f"{best} The test figures above are those of the model after round {record.tested_round}.")
    alt = "Validation PSNR and training loss of each site over the rounds."
    if record.rounds:
        last = max(record.rounds)
        losses = ", ".join(f"{site} {loss:.4f}" for site, loss in record.rounds[last].train_loss.items())
        alt += f" Training loss in round {last}: {losses}."
    return section("Training", _curves(record, alt=alt) + paragraph(" ".join(notes)))


def _curves(record: RunRecord, *, alt: str) -> str:
    psnr, loss = figures.lines(record)
    if len(record.config.federation.sites) <= figures.MAX_COLOURED:
        return plot(figures.curves(record), alt=alt)
    shown = ""
    if psnr:
        shown += "<h3>Validation PSNR</h3>"
        shown += small_multiples(psnr, caption="First and last value.", unit=" dB", decimals=1)
    if loss:
        shown += "<h3>Training loss, mean of each round</h3>"
        shown += small_multiples(loss, caption="First and last value.", unit="", decimals=3)
    return shown


def privacy(record: RunRecord) -> str:
    """Epsilon of each site against the run's budget; empty for a run without privacy."""
    asked, title = record.config.privacy, "Patient-level privacy"
    if asked.epsilon is None:
        return ""
    meaning = (
        "Any reply of a site is at most e^epsilon times more likely with any one training subject than without that"
        " subject, up to delta. Sites hold different people, so their epsilons are not added."
    )
    if "without_privacy" in record.baselines:
        meaning += " Comparison shows what privacy costs: the distance to the federation without it."
    if not record.privacy:
        told = "Sites do not tell what they have spent: it stands in their ledgers." if record.deployed else ""
        planned = f"Planned for this run: at most epsilon {asked.epsilon:g} at delta {asked.delta:g} at each site."
        return section(title, paragraph(f"{planned} {told}") + paragraph(meaning))
    spent = record.privacy.items()
    rows = [row(_coloured(record, site), [f"{its[name]:.2f}" for name in _EPSILONS]) for site, its in spent]
    caption = f"Epsilon at delta {asked.delta:g}; the budget of this run is {asked.epsilon:g}"
    uri = figures.epsilons(record.privacy, budget=asked.epsilon, sites=record.config.federation.sites)
    by_site = ", ".join(f"{site} {its['epsilon']:.2f}" for site, its in spent)
    alt = f"Epsilon of each site against the budget of {asked.epsilon:g}: {by_site}."
    its_table = table(["Site", *_EPSILONS.values()], rows, caption=caption)
    return section(title, its_table + plot(uri, alt=alt) + paragraph(meaning))


def what_was_run(record: RunRecord) -> str:
    """Subjects, settings, programs and machine."""
    config, environment = record.config, record.environment
    scenario, model, grid, training = parse_scenario(config.scenario), config.model, config.grid, config.training
    spacing = " x ".join(f"{mm:g}" for mm in grid.spacing_mm) + " mm" if grid.spacing_mm else "each target's own"
    packages = [f"{name} {version}" for name, version in environment.packages.items()]
    machine = [environment.platform, environment.gpu, environment.cpus and f"{environment.cpus} CPUs"]
    facts = {
        "Scenario": f"{words(scenario.sources)} to {scenario.target}",
        "Reference": f"{config.reference} (the source in the target's pose)" if config.reference else "",
        "Loss": f"where the target lies on {config.reference}, by alignment" if training.align_target else "",
        "Partition": "by hospital" if config.partition == "site" else "by chance (iid)",
        "Model": f"{record.model_name}, {model.dims}-D, {'-'.join(map(str, model.widths))} channels",
        "Training": f"{plural(config.rounds, 'round')} x {plural(training.local_steps, 'local step')} x"
        f" {in_words.each_step(config)} of {' x '.join(map(str, config.crop))}; {in_words.optimiser(config)}; loss"
        f" {in_words.loss(config)}",
        "Initial weights": in_words.start(config),
        "Server step": in_words.server_step(config),
        "Personal model": "none" if config.personal == "none" else in_words.personal_model(config),
        "Moved source": in_words.moved(config),
        "Grid": spacing,
        "Seed": str(config.seed),
        "Engine": f"{config.engine}: "
        + ("every site on its own machine" if record.deployed else "all sites simulated on one machine"),
        "Began": moment(record.began),
        "Ended" if record.finished else "Last event": moment(record.ended),
        "Wall time": duration(record.wall_s) + ("" if record.finished else " so far"),
        "Machine": ", ".join([*(fact for fact in machine if fact), plural(config.threads, "thread")]),
        "Versions": ", ".join([f"Python {environment.python}", *packages] if environment.python else packages),
    }
    rows = [row(name, [text]) for name, text in facts.items() if text]
    return section("What was run", _subjects(record) + table((), rows, kind="text facts"))


def _subjects(record: RunRecord) -> str:
    """Subjects of each site by use; empty where the sites keep that to themselves."""
    if record.deployed:
        return ""
    federation = record.config.federation
    headings = {site: _coloured(record, site) for site in federation.sites}
    headings |= {site: escape(site) + _UNSEEN for site in federation.unseen_sites}
    parts, splits = ("train", "validation", "test"), record.splits
    rows = [row(html, [splits.get(site, {}).get(part, "–") for part in parts]) for site, html in headings.items()]
    return table(("Site", "Training subjects", "Validation subjects", "Test subjects"), rows)


def messages(record: RunRecord) -> str:
    """Failures by site and round, warnings, and skipped scans with their reasons."""
    body = ""
    if record.problems:
        repeated: dict[tuple[str, str], list[Problem]] = {}
        for problem in record.problems:
            repeated.setdefault((problem.site, problem.text), []).append(problem)
        rows = [
            row(escape(site), [ranges(p.round for p in same), text, _since(same)])
            for (site, text), same in repeated.items()
        ]
        heads = ("Site", "Round", "What happened", "When")
        body += "<h3>Failures and decisions</h3>" + table(heads, rows[:MAX_PROBLEMS], kind="text")
        if len(rows) > MAX_PROBLEMS:
            body += paragraph(f"The first {MAX_PROBLEMS} of {len(rows)}; events.jsonl in the run's folder has all.")
    if record.warnings:
        body += "<h3>Warnings</h3>" + bullets(record.warnings)
    if record.skipped:
        body += "<h3>Skipped scans</h3>" + bullets(f"{count} x {reason}" for reason, count in record.skipped.items())
    return section(
        "Failures, warnings and skipped scans",
        body or paragraph("None: no site has failed so far, and nothing was skipped."),
    )


def _since(same: Sequence[Problem]) -> str:
    began = moment(same[0].at)
    return f"from {began}" if began and len(same) > 1 else began or "–"


def _coloured(record: RunRecord, site: str) -> str:
    """The name of an invited site behind its colour, if it has one, as HTML; marked where it has not trained."""
    sites, swatch = record.config.federation.sites, ""
    if len(sites) <= figures.MAX_COLOURED:
        swatch = f'<span class="swatch" style="background: {figures.site_colour(sites, site)}"></span>'
    untrained = _UNTRAINED if record.rounds and site not in record.trained else ""
    return f"{swatch}{escape(site)}{untrained}"


def _figures(score: SiteScore) -> list[str]:
    """Cells of the table of sites: subjects, then METRIC_NAMES."""
    cells = [
        f"{score.metrics[name + region]:.{metric.decimals}f}" if name + region in score.metrics else "–"
        for region in REGIONS
        for name, metric in METRICS.items()
    ]
    return [str(score.subjects), *cells]
