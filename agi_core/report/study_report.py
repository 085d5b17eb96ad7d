"""The report of a run over a vocabulary: a matrix of all cells, over all sites and at each, and a link to the report of
each cell that was trained."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from agi_core.cells import folder_of
from agi_core.config.schema import DEPLOYMENT
from agi_core.errors import RunError
from agi_core.models.model_config import name_of
from agi_core.report.in_words import held_back
from agi_core.report.markup import NONE, Row, bullets, db, paragraph, plural, row, section, signed_db, table, words
from agi_core.report.page import origin_notice, write_page
from agi_core.run import run_folder
from agi_core.run.study_summary import BLEND, NOBODY, TRAINED, CellResult, StudySummary, read_study_summary
from agi_core.scenario import parse_scenario


def build_study_report(run_dir: Path) -> Path:
    """Write `report.html` of a run over a vocabulary, and return its path.

    Raises:
        RunError: there is no such run in the folder, it is not finished, or the report cannot be written.
    """
    config, summary = run_folder.open_existing(run_dir), read_study_summary(run_dir)
    if summary is None:
        raise RunError(
            f"the run in {run_dir} is not finished; the reports of its finished cells are in {run_dir}/cells"
        )
    count = {how: sum(its.how == how for its in summary.cells.values()) for how in (TRAINED, BLEND, NOBODY)}
    result = (
        f"Any sequence from any others, over {plural(len(summary.offers), 'site')}:"
        f" {plural(count[TRAINED], 'cell')} trained, {plural(count[BLEND], 'blend')} of those, and"
        f" {plural(count[NOBODY], 'cell')} that cannot be made by anybody."
    )
    offers = bullets(f"{site} offers {words(modalities)}" for site, modalities in summary.offers.items())
    body = (
        section("PSNR of every cell", _matrices(summary, deployed=config.engine == DEPLOYMENT)),
        section("What each site has", offers),
        section("Cells", table(("Cell", "", "PSNR", "Over regression", "By"), _cells(summary, run_dir))),
        section("Patient-level privacy", _privacy(summary)) if summary.epsilons else "",
        section("Worth a look", bullets(flags)) if (flags := [*_flags(summary)]) else "",
    )
    path = run_dir / "report.html"
    write_page(
        path,
        title=f"{name_of(config.model)}: {summary.scenario}",
        kicker=f"Federated training of MR image synthesis · run {run_dir.resolve().name}",
        lead=" ".join(filter(None, (result, held_back(summary.unseen_anatomy)))),
        contents="The report holds no images, names or subject ids.",
        body_html="".join(body),
        notices_html=_notice(summary),
        below=f"{plural(config.rounds, 'round')} of each cell · seed {config.seed}",
    )
    return path


def _notice(summary: StudySummary) -> str:
    """This page shows no scan, so only synthetic ones are worth a word."""
    known = summary.synthetic
    return origin_notice(synthetic=known, anatomies=summary.anatomies, deployed=False) if known else ""


def _matrices(summary: StudySummary, *, deployed: bool) -> str:
    """Over all sites, then at each. In brackets: the cubic regression of the same sources on the same subjects."""
    figures = (
        "PSNR in dB on the test subjects, as the sites told it, and in brackets that of a cubic regression of the same"
        " sources where all of them told it too. A blend is scored at unseen sites that offer all its modalities, and"
        " has no regression beside it."
        if deployed
        else "PSNR in dB on the test subjects, with a cubic regression of the same sources in brackets. A site is"
        " scored on a target that it does not offer where the folder has it."
    )
    html = paragraph(
        f"{figures} A cell without a word was trained. A blend averages trained cells, weighted by their errors. Over"
        " all sites each cell is averaged over those that can be scored on it, which are others for each cell: compare"
        " cells at one site."
    )
    for site in (None, *summary.scored_sites):
        targets, rows = summary.matrix(site)
        body = [row(escape(name), [text or NONE for text in texts]) for name, *texts in rows]
        html += table(["From", *(f"to {target}" for target in targets)], body, caption=site or "All sites")
    return html


def _cells(summary: StudySummary, run_dir: Path) -> Iterator[Row]:
    for name, its in summary.cells.items():
        ours, regression = its.psnr_db()
        over = NONE if ours is None or regression is None else signed_db(ours - regression)
        report = folder_of(Path(), parse_scenario(name)) / "report.html"
        html = f'<a href="{escape(str(report))}">{escape(name)}</a>' if (run_dir / report).is_file() else escape(name)
        yield row(html, [its.how, db(ours), over, _by(its)])


def _by(its: CellResult) -> str:
    if its.how == BLEND:
        parts = ", ".join(f"{expert} {weight:.2f}" for expert, weight in its.experts.items())
        how = parts if its.measured else f"{parts} (equal: the errors are not known)"
        return f"{how}; {its.said}" if its.said else how
    return ", ".join(its.sites) or NONE


def _privacy(summary: StudySummary) -> str:
    rows = [row(escape(site), [f"{epsilon:.2f}"]) for site, epsilon in summary.epsilons.items()]
    return table(("Site", "Epsilon"), rows, caption=f"Spent by all cells together, at delta {summary.delta:g}")


def _flags(summary: StudySummary) -> Iterator[str]:
    for name, its in summary.cells.items():
        yield from (f"{name}: {flag}" for flag in its.flags)
