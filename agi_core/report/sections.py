"""The sections of the report, each from a run record (or its example slices) to HTML."""

from collections.abc import Sequence
from html import escape

import numpy as np

from agi_core.metric_table import METRIC_NAMES, METRICS, REGIONS, psnr_db
from agi_core.report import figures
from agi_core.report.examples import Example
from agi_core.report.markup import (
    bullets,
    db,
    mark,
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
from agi_core.report.record import RunRecord
from agi_core.run.duration import duration
from agi_core.run.scores import Scores, SiteScore
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
MAX_EXAMPLES = 8  # keeps the file small enough for an e-mail

_EPSILONS = {
    "epsilon_run": "This run",
    "epsilon": "All runs on these subjects",
    "epsilon_rdp": "The same by RDP, a looser bound",
}
_WORST, _UNSEEN = mark("worst", "worst site"), mark("unseen", "unseen site")


def columns(record: RunRecord) -> str:
    """What each site can have, side by side: alone, global, personal."""
    alone, shared, personal = record.baselines.get("local_only"), record.federated, record.personal
    if shared is None or not shared.final or (alone is None and personal is None):
        return ""

    def psnr(scores: Scores | None, site: str) -> float | None:
        score = scores and {**scores.sites, **scores.unseen_sites}.get(site)
        return score.psnr_db if score else None

    def cells(values: Sequence[float | None]) -> list[str]:
        without, *_, best = values
        gain = signed_db(best - without) if without is not None and best is not None else "–"
        return [*map(db, values), gain]

    methods = (alone, shared, personal)
    rows = [row(_coloured(record, site), cells([psnr(its, site) for its in methods])) for site in shared.sites]
    means = [its.final.get("psnr_db") if its else None for its in methods]
    rows.append(row("all of these subjects", cells(means), kind="total"))
    for site in shared.unseen_sites:
        rows.append(row(escape(site) + _UNSEEN, cells([psnr(its, site) for its in methods])))
    heads = ("Site", "Alone", "Global", "Personal", "Personal minus alone")
    meaning = (
        "PSNR on the same test subjects. Alone: the site's own model, trained as long without the others. Global: the"
        " common model, as a hospital gets it that took no part. Personal: the common model with a last layer that the"
        " site solved on its own training subjects, and keeps."
    )
    missing = " Nobody was trained alone in this run." if alone is None else ""
    return section("What a site gains", table(heads, rows, kind="metrics") + paragraph(meaning + missing))


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
    rows += [row(escape(site), ["–", "suppressed", *["–"] * (len(METRIC_NAMES) - 1)]) for site in record.suppressed]
    if scores.final:
        rows.append(row("all of these subjects", _figures(SiteScore(scores.final, scores.subjects)), kind="total"))
    rows += [row(escape(site) + _UNSEEN, _figures(score)) for site, score in scores.unseen_sites.items()]

    regions = (f'<th scope="colgroup" colspan="{len(METRICS)}">{name}</th>' for name in ("Whole volume", "Foreground"))
    groups = f"<tr><td></td><td></td>{''.join(regions)}</tr>"
    columns = ["Site", "Test subjects", *[metric.label for metric in METRICS.values()] * len(REGIONS)]
    caption = f"{record.model_name} after round {record.tested_round}, mean over the subjects of each site"
    notes = []
    if record.suppressed:
        notes.append("Suppressed: the site's policy lets no figures of so few subjects leave, or none of this kind.")
    if untested := sorted(set(config.federation.sites) - set(scores.sites) - set(record.suppressed)):
        notes.append(f"Without test subjects, and so not scored: {words(untested)}.")
    if scores.unseen_sites:
        limit = config.evaluation.max_subjects
        notes.append(f"Unseen sites took no part in training; at most {limit} subjects of each are scored, once.")
    body = table(columns, rows, groups=groups, caption=caption, kind="metrics") + paragraph(" ".join(notes))
    return section("Quality per site", body)


def comparison(record: RunRecord) -> str:
    """The baselines beside the federated model, how each was trained, and which were not run."""
    # These are of some runs only: of pre-trained weights, or of private training.
    optional = {"initial_weights", "public_own_last_layer", "without_privacy"}
    scores, baselines, not_run = record.federated, record.baselines, ""
    if record.deployed:
        not_run = paragraph("Baselines are not run: they need all scans in one place, and here each stays at its site.")
    elif missing := [name for method, name in BASELINES.items() if method not in {*baselines, *optional}]:
        command = f"python simulations/run.py --out {record.run_dir} --resume --compare"
        not_run = f"<p><strong>Not run:</strong> {escape(words(missing))}. To add: <code>{escape(command)}</code></p>"
    if scores is None or not scores.final or not baselines:
        return section("Comparison", paragraph("There is nothing to compare yet.") + not_run)
    methods = {"federated": (f"{record.model_name}, federated", scores)}
    methods |= {"personal": ("personal", record.personal)} if record.personal else {}
    methods |= {method: (name, baselines[method]) for method, name in BASELINES.items() if method in baselines}
    trained = _how_trained(record)
    rows = []
    for method, (name, its) in methods.items():
        difference = signed_db(scores.final["psnr_db"] - its.final["psnr_db"]) if its is not scores else "–"
        worst = f"{its.worst_site} {db(its.sites[its.worst_site].psnr_db)}" if its.worst_site is not None else "–"
        ssim = f"{its.final['ssim']:.3f}" if "ssim" in its.final else "–"
        cells = (db(its.final["psnr_db"]), difference, ssim, worst, db(its.unseen_psnr_db))
        heading = f"{escape(name)}<small>{escape(trained[method])}</small>"
        rows.append(row(heading, cells, kind="total" if its is scores else ""))
    against = f"{record.model_name} minus this"
    columns = ("Method", "PSNR", against, "SSIM", "Its worst site (PSNR)", "Unseen sites (PSNR)")
    alt = "Test PSNR per site. " + " ".join(f"{name}: {_psnr_per_site(its)}." for name, its in methods.values())
    note = paragraph("All methods are scored on the same subjects. One seed: small differences may be chance.")
    body = table(columns, rows, kind="methods") + note + plot(figures.comparison(methods), alt=alt)
    return section("Comparison", body + not_run)


def _how_trained(record: RunRecord) -> dict[str, str]:
    config = record.config
    n, batch = len(config.federation.sites), config.training.batch_size
    rounds, steps = config.rounds, config.training.local_steps
    budget = f"{rounds} x {steps} = {rounds * steps} steps"
    return {
        "federated": f"{rounds} rounds of {steps} local steps at each site, batch {batch}; scans stay at their sites",
        "personal": "the same model with a last layer that each site solved on its own training subjects",
        "initial_weights": "the weights that the run started from, before its first round",
        "voxel_regression": "one cubic polynomial of the sources at each voxel, fitted once on the pooled scans",
        "regression_pooled": "the same of aligned sources: the federation's prior without a network",
        "regression_per_site": "the same, each site's own, shrunk to the pooled one",
        "public_own_last_layer": "the public initial weights, and a last layer that each site solved; no epsilon",
        "local_only": f"one model per site, {budget} on its own scans, batch {batch}; scored on its own test subjects"
        " and on the unseen sites' (mean over the models)",
        "centralised": f"one model, {budget} on the pooled training scans, batch {n} x {batch} = {n * batch}",
        "without_privacy": "the same federation from the same weights: all of them trained, nothing clipped, no noise,"
        " as many crops in a round",
    }


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
        " the patient's right (R) on the left. Intensities from 0 (black) to 1 (white), cut to the head."
    )
    if len(shown) > MAX_EXAMPLES:
        intro += f" The first {MAX_EXAMPLES} of {len(shown)} are shown."
    scale = (
        f'<p class="scale">Absolute error: 0 <img src="{figures.error_scale()}" alt="from black over red to yellow">'
        f" {figures.ERROR_SCALE} and above; the same scale in every report</p>"
    )
    return section(title, paragraph(intro) + scale + "".join(_example(example) for example in shown[:MAX_EXAMPLES]))


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


def training(record: RunRecord) -> str:
    """Curves per site, and the best round."""
    uri = figures.curves(record)
    if uri is None and record.config.privacy.on:
        return section("Training", paragraph("Private: no figure of training or validation subjects leaves a site."))
    if uri is None:
        return section("Training", paragraph("No round is finished yet."))
    if any(event.sites for event in record.validation.values()):
        limit = record.config.evaluation.validation_slices
        volumes = record.config.model.dims == 3
        scored = f"whole volumes of {limit} slices together, or one," if volumes else f"at most {limit} slices"
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
    return section("Training", plot(uri, alt=alt) + paragraph(" ".join(notes)))


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
    loss = "L1" + (f" + {training.ssim_weight:g} (1 - SSIM)" if training.ssim_weight else "")
    loss += f" + {training.proximal:g} / 2 |w - w0|^2 (FedProx)" if training.proximal else ""
    spacing = " x ".join(f"{mm:g}" for mm in grid.spacing_mm) + " mm" if grid.spacing_mm else "each target's own"
    packages = [f"{name} {version}" for name, version in environment.packages.items()]
    machine = [environment.platform, environment.gpu, environment.cpus and f"{environment.cpus} CPUs"]
    facts = {
        "Scenario": f"{words(scenario.sources)} to {scenario.target}",
        "Reference": f"{config.reference} (the source in the target's pose)" if config.reference else "",
        "Loss": f"where the target lies on {config.reference}, by alignment" if training.align_target else "",
        "Partition": "by hospital" if config.partition == "site" else "by chance (iid)",
        "Model": f"{record.model_name}, {model.dims}-D, {'-'.join(map(str, model.widths))} channels",
        "Training": f"{config.rounds} rounds x {training.local_steps} local steps x {training.batch_size} crops of"
        f" {' x '.join(map(str, config.crop))}; AdamW, peak learning rate {training.learning_rate:g}; loss {loss}",
        "Grid": spacing,
        "Seed": str(config.seed),
        "Engine": f"{config.engine}: "
        + ("every site on its own machine" if record.deployed else "all sites simulated on one machine"),
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
        rows = [row(escape(problem.site), [problem.round, problem.text]) for problem in record.problems]
        body += "<h3>Failures and decisions</h3>" + table(("Site", "Round", "What happened"), rows, kind="text")
    if record.warnings:
        body += "<h3>Warnings</h3>" + bullets(record.warnings)
    if record.skipped:
        body += "<h3>Skipped scans</h3>" + bullets(f"{count} x {reason}" for reason, count in record.skipped.items())
    return section("Failures, warnings and skipped scans", body or paragraph("None."))


def _coloured(record: RunRecord, site: str) -> str:
    """The name of a training site behind its colour, as HTML."""
    colour = figures.site_colour(record.config.federation.sites, site)
    return f'<span class="swatch" style="background: {colour}"></span>{escape(site)}'


def _figures(score: SiteScore) -> list[str]:
    """Cells of the table of sites: subjects, then METRIC_NAMES."""
    cells = [
        f"{score.metrics[name + region]:.{metric.decimals}f}" if name + region in score.metrics else "–"
        for region in REGIONS
        for name, metric in METRICS.items()
    ]
    return [str(score.subjects), *cells]
