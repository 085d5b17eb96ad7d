"""What a simulation prints before its first round and after its last; `display` shows what is going on in between."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agi_core.cell_plan import Plan
from agi_core.cells import parse_vocabulary
from agi_core.config.schema import RunConfig
from agi_core.data.scans import held_by
from agi_core.keys import KeyTable
from agi_core.models.model_config import name_of
from agi_core.report.in_words import ALONE_ELSEWHERE, held_back
from agi_core.report.markup import plural
from agi_core.run.initial_weights import weights_file
from agi_core.run.scores import Metrics, Scores
from agi_core.run.study_summary import StudySummary
from agi_core.run.summary import Summary
from simulations.display import of_sites
from simulations.sites import Federation

NAMED_SCANS = 10  # of those that a warning is about


def print_plan(config: RunConfig, federation: Federation, console: Console) -> None:
    """What was found, how it was divided, what will be trained, and what the user should know of it."""
    console.print(federation.discovery.summary())
    model = name_of(config.model) + (" in 3-D" if config.model.dims == 3 else "")
    sites, unseen = (
        of_sites({site: len(subjects) for site, subjects in some.items()}, "d", between=", ")
        for some in (federation.training, federation.unseen)
    )
    console.print(
        f"{model}, {config.scenario}, reference {config.reference}: {plural(config.rounds, 'round')} of"
        f" {plural(config.training.local_steps, 'step')} at {plural(len(federation.training), 'site')} ({sites})"
        + (f"; unseen: {unseen}" if unseen else "")
        + (f"; the anatomy {anatomy} is for the test alone" if (anatomy := config.data.unseen_anatomy) else "")
        + (f"; starts from {path.name}" if (path := weights_file(config)) else "")
    )
    if config.data.unseen_anatomy:
        tests = {site: federation.splits[site].test for site in federation.training}
        told = (f"{site} {len({*its} & {*federation.tests})} of {len(its)}" for site, its in tests.items())
        console.print(f"test subjects with that anatomy: {', '.join(told)}")
    console.print(str(_keys(config)))
    print_warnings(federation, console)


def _keys(config: RunConfig) -> KeyTable:
    from agi_core.network import Network  # here, because it brings torch, and others who print have no use for it

    return KeyTable.of(config, {name: array.ndim for name, array in Network(config).weights.items()})


def print_warnings(federation: Federation, console: Console) -> None:
    """What the user should know of the scans, with the first scans of each kind."""
    for warning in federation.warnings:
        console.print(f"warning: {warning}")
        scans = federation.doubted.get(warning, ())
        for scan in scans[:NAMED_SCANS]:
            console.print(f"  {scan}", markup=False)
        if len(scans) > NAMED_SCANS:
            console.print(f"  and {len(scans) - NAMED_SCANS} more")


def print_vocabulary(config: RunConfig, everybody: Federation, plan: Plan, console: Console) -> None:
    """Who holds what, and what becomes of each cell."""
    console.print(everybody.discovery.summary())
    modalities = parse_vocabulary(config.scenario).modalities
    table = Table(title="subjects with each modality; (in brackets): not offered", title_justify="left")
    for heading in ("", "subjects", *modalities):
        table.add_column(heading, justify="right" if heading else "left")
    for site, subjects in {**everybody.training, **everybody.unseen}.items():
        offered = config.federation.offers.get(site, modalities)
        held = held_by(subjects, modalities).items()
        counts = [f"{count}" if name in offered else f"({count})" for name, count in held]
        table.add_row(site + " (unseen)" * (site in everybody.unseen), f"{len(subjects)}", *counts)
    console.print(table, soft_wrap=False)
    console.print(f"{plural(config.rounds, 'round')} of each cell:\n{plan}", markup=False)


def print_cell(config: RunConfig, federation: Federation, *, poses: str, console: Console) -> None:
    """What is decided for one cell, and what the user should know of its scans."""
    rule, holders = config.federation.aggregation, len(federation.training)
    sites = "1 site" if holders == 1 else f"the {rule} of {holders} sites"
    planned = f"planned with epsilon {config.privacy.epsilon:.2f}; " if config.privacy.epsilon else ""
    console.print(f"{config.scenario}: reference {config.reference}, {sites}; {planned}{_keys(config)}", markup=False)
    if poses:
        console.print(poses)
    print_warnings(federation, console)


def print_matrix(summary: StudySummary, run_dir: Path, report_path: Path, console: Console) -> None:
    """PSNR of every cell over all sites and at each of them, and what to do next."""
    for site in (None, *summary.scored_sites):
        targets, rows = summary.matrix(site)
        title = f"{site or 'all sites'}, PSNR dB (cubic regression); trained where nothing else is said"
        table = Table(title=title + _origin(summary), title_justify="left")
        for heading in ("from", *(f"to {target}" for target in targets)):
            table.add_column(heading)
        for row in rows:
            table.add_row(*row)
        console.print(table, soft_wrap=False)
    console.print("over all sites, each cell is of those that can be scored on it: compare cells at one site")
    if said := held_back(summary.unseen_anatomy):
        console.print(said, markup=False)
    for name, result in summary.cells.items():
        if result.experts:
            parts = ", ".join(f"{expert} {weight:.2f}" for expert, weight in result.experts.items())
            unmeasured = "" if result.measured else " (equal: the errors of the experts are not known)"
            console.print(f"{name} is a blend of {parts}{unmeasured}", markup=False)
        for flag in result.flags:
            console.print(f"warning: {name}: {flag}", markup=False)
    if spent := summary.epsilons:
        by_site = ", ".join(f"{site} {epsilon:.2f}" for site, epsilon in spent.items())
        console.print(f"patient-level privacy of all cells together at delta {summary.delta:g}: epsilon {by_site}")
    console.print(f"report: {report_path}")
    console.print(f"use it: python -m agi_core synthesize --run {run_dir} --help")


def print_results(summary: Summary, run_dir: Path, report_path: Path, *, console: Console) -> None:
    """The scores, what they are compared with, what privacy was spent, and what to do next."""
    scores, final, baselines = summary.scores, summary.scores.final, summary.baselines
    unseen = {f"{site} (unseen)": score for site, score in scores.unseen_sites.items()}
    rows: dict[str, Metrics] = {name: score.to_json() for name, score in {**scores.sites, **unseen}.items()}
    rows["all training sites"] = final
    rows |= {f"baseline: {name.replace('_', ' ')}": baseline.final for name, baseline in baselines.items()}
    console.print(result_table(f"{summary.scenario}, whole volume{_origin(summary)}", rows), soft_wrap=False)
    if said := held_back(summary.unseen_anatomy):
        console.print(said, markup=False)
    if summary.suppressed:
        console.print(f"figures suppressed by the site's policy: {', '.join(summary.suppressed)}")
    elif not final:
        console.print("no site has a test subject: a site needs two subjects for one, three also to validate")
    regression = baselines.get("regression_pooled")
    pooled = {"regression on aligned sources": regression} if regression else {}
    if final:
        console.print(columns_table(summary), soft_wrap=False)
        if (alone := baselines.get("local_only")) and alone.unseen_sites:
            console.print(f"alone (unseen): {ALONE_ELSEWHERE}", markup=False)
        console.print(_against("global", scores, pooled))
    if unseen:
        console.print(unseen_table(summary), soft_wrap=False)
        of_unseen = {what: its.unseen for what, its in pooled.items()}
        console.print(_against("at sites that took no part: global", scores.unseen, of_unseen))
    if summary.personal and summary.personal.final:
        rivals = {
            "regression_per_site": "own regression",
            "public_own_last_layer": "an own last layer on the public start, which spends no epsilon",
            "local_only": "training alone",
        }
        own = {what: baselines[name] for name, what in rivals.items() if name in baselines}
        console.print(_against("personal", summary.personal, own))
    if final and (plain := baselines.get("without_privacy")):
        cost = plain.final["psnr_db"] - final["psnr_db"]
        console.print(f"global of the same federation without privacy: {cost:+z.2f} dB")
    print_learnt(summary, console)
    if summary.privacy:
        by_site = ", ".join(f"{site} {spent['epsilon']:.2f}" for site, spent in summary.privacy.items())
        console.print(f"patient-level privacy of the training subjects at delta {summary.delta:g}: epsilon {by_site}")
    console.print(f"report: {report_path}")
    console.print(f"use it: python -m agi_core synthesize --run {run_dir} --help")
    of_compare = {"local_only": "training alone (the column alone)", "centralised": "the centralised baseline"}
    if lacking := [what for name, what in of_compare.items() if name not in baselines]:
        console.print(
            f"not run: {' and '.join(lacking)}; add {'it' if len(lacking) == 1 else 'them'} to this run with"
            f" python simulations/run.py --out {run_dir} --resume --compare"
        )
    for flag in summary.flags:
        console.print(f"warning: {flag}", markup=False)


def print_learnt(summary: Summary, console: Console) -> None:
    """What the questions after the final test have brought."""
    for learnt in (summary.last_layer, summary.interval, summary.known_range):
        if learnt:
            console.print(learnt.said, markup=False)


def _origin(summary: Summary | StudySummary) -> str:
    known = f", {plural(summary.anatomies, 'anatomy', 'anatomies')}" if summary.anatomies else ""
    return f" - SYNTHETIC DATA{known}" if summary.synthetic else ""


def _against(name: str, scores: Scores, others: Mapping[str, Scores]) -> str:
    """A method's mean, and its distance to others on the same subjects."""
    psnr_db = scores.final["psnr_db"]
    distances = [f"{psnr_db - its.final['psnr_db']:+z.2f} dB against {what}" for what, its in others.items()]
    return f"{name} {psnr_db:.2f} dB" + (f": {', '.join(distances)}" if distances else "")


def columns_table(summary: Summary) -> Table:
    """PSNR of each site alone, with the common model, and with its own last layer on it."""
    columns = summary.columns
    table = Table(title="what a site gains: PSNR dB", title_justify="left")
    for heading in ("", *columns):
        table.add_column(heading, justify="left" if not heading else "right")
    for site in [*summary.scores.sites, *summary.scores.unseen_sites]:
        its = [{**scores.sites, **scores.unseen_sites}.get(site) for scores in columns.values()]
        unseen = " (unseen)" if site in summary.scores.unseen_sites else ""
        table.add_row(site + unseen, *(f"{score.psnr_db:.2f}" if score else "" for score in its))
    table.add_row("all training sites", *(f"{scores.final['psnr_db']:.2f}" for scores in columns.values()))
    return table


def unseen_table(summary: Summary) -> Table:
    """PSNR of the common model, and of each baseline that can be used there, at the sites that took no part."""
    scores, sites = summary.scores, [*summary.scores.unseen_sites]
    table = Table(title="sites that took no part: PSNR dB", title_justify="left")
    for heading in ("", *sites, *(["all of their subjects"] if len(sites) > 1 else [])):
        table.add_column(heading, justify="left" if not heading else "right")
    methods = {"global": scores}
    methods |= {f"baseline: {name.replace('_', ' ')}": its for name, its in summary.baselines.items()}
    for name, its in methods.items():
        if its.unseen_sites:
            told = [its.unseen_sites[site].psnr_db for site in sites]
            mean = [its.unseen.final["psnr_db"]] if len(sites) > 1 else []
            table.add_row(name, *(f"{psnr_db:.2f}" for psnr_db in [*told, *mean]))
    return table


def result_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """Rows of PSNR, SSIM, MAE and subjects."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "PSNR dB", "SSIM", "MAE", "subjects"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, row in rows.items():
        if not row:  # nobody to test
            continue
        formats = {"psnr_db": ".2f", "ssim": ".4f", "mae": ".4f", "subjects": ".0f"}
        table.add_row(name, *(format(row[key], digits) if key in row else "" for key, digits in formats.items()))
    return table
