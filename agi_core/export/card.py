"""The model card: written from the run, for whoever is asked to use the model (`docs/README.md` of the zip)."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from agi_core.config.schema import RunConfig
from agi_core.export.archive import ERROR_MODEL, KNOWN_RANGE
from agi_core.models.model_config import name_of
from agi_core.names import shown
from agi_core.run.event_log import events_of
from agi_core.run.events import PriorSolved, RoundFinished
from agi_core.run.scores import Best, Scores
from agi_core.run.summary import Summary, read_summary
from agi_core.scenario import parse_scenario

DOUBTS = {"error model": ERROR_MODEL, "known range": KNOWN_RANGE}
"""By which a volume is doubted: what it is called, and its name in the zip."""
MUST_NOT = (
    "It must not be used for diagnosis, for treatment, or in place of a scan that a patient needs. A lesion that no"
    " source shows cannot be in the output, and what the output shows need not be in the patient."
)


def model_card(
    run_dir: Path,
    config: RunConfig,
    *,
    title: str,
    release: str,
    weights: bytes,
    round: int,
    untested: Best | None,
    refused: Mapping[str, str],
    styles: Sequence[str],
) -> str:
    """The card as Markdown.

    Args:
        weights: the file of weights in the zip.
        round: that of the last model.
        untested: the best model, where the weights are its, and not those of the last one.
        refused: {format: why the zip does not have it}.
        styles: sites whose own last layer is in the zip.

    Raises:
        RunError: a file of the run is damaged.
    """
    scenario, summary = parse_scenario(config.scenario), read_summary(run_dir)
    sources = ", ".join(scenario.sources)
    return "\n\n".join(
        [
            f"# {title}",
            f"{name_of(config.model)}: it makes {scenario.target} from {sources}, as NIfTI or DICOM. Trained by release"
            f" {release} of AGI-Fed, without a scan leaving a site.",
            f"**{MUST_NOT}**",
            _weights(config, round, untested),
            f"## Trained on\n\n{_sites(run_dir, config, summary)}",
            f"## Scores\n\n{_scores(config, summary, round, untested)}\n\n{_styles(styles)}",
            f"## Privacy\n\n{_privacy(config, summary)}",
            f"## Input and output\n\n{_preparation(config)}",
            f"## Settings\n\n{_settings(config)}",
            f"## Limits\n\n{_limits(config, summary, untested)}",
            f"## Formats\n\n{_formats(refused)}",
            "## Licence\n\nThe programs in this zip are under the Apache License 2.0. The weights belong to the"
            " hospitals that trained them; their agreement says who may use them.",
            f"## Checksum\n\nsha256 of the weights: `{hashlib.sha256(weights).hexdigest()}`. `checksums.sha256` has"
            " those of all files.",
        ]
    )


def _weights(config: RunConfig, round: int, untested: Best | None) -> str:
    if untested is None:
        return f"Its weights are the last ones of the run, after round {round} of {config.rounds}."
    return (
        f"Its weights are those after round {untested.round} of {config.rounds}, the best by validation"
        f" ({untested.psnr_db:.2f} dB, the median over sites). **Nobody has tested them.**"
    )


def _sites(run_dir: Path, config: RunConfig, summary: Summary | None) -> str:
    rounds = events_of(run_dir, RoundFinished)
    took_part = Counter(site for finished in rounds for site in finished.sites)
    took_part.update({site: 0 for solved in events_of(run_dir, PriorSolved) for site in solved.sites})
    if not took_part:
        return "No site took part in a finished round."
    told = {site: str(count) for finished in rounds for site, count in finished.subjects.items()}
    registered = {site: f"at most {count}" for site, count in config.federation.subjects.items()}
    subjects = registered | told
    rows = [
        f"| {shown(site)} | {subjects.get(site, 'not told')} | {count} of {len(rounds)} |"
        for site, count in sorted(took_part.items())
    ]
    text = "| site | training subjects | rounds |\n|---|---|---|\n" + "\n".join(rows)
    if absent := sorted(set(config.federation.sites) - set(took_part)):
        text += f"\n\nInvited, but in no finished round: {', '.join(map(shown, absent))}."
    if summary is not None and summary.synthetic:
        text += "\n\nAll scans were built-in **synthetic** data: the model knows no patient, and is for trials alone."
    return text


def _scores(config: RunConfig, summary: Summary | None, round: int, untested: Best | None) -> str:
    if summary is None or not summary.scores.sites:
        return "The run has no final test: nobody knows how good this model is."
    scores: Scores = summary.scores
    names = [name for name in ("psnr_db", "ssim", "mae") if name in scores.final]
    rows = [
        f"| {shown(site)}{kind} | {score.subjects} | "
        + " | ".join(f"{score.metrics[name]:.3f}" if name in score.metrics else "held back" for name in names)
        + " |"
        for kind, sites in (("", scores.sites), (" (took no part)", scores.unseen_sites))
        for site, score in sorted(sites.items())
    ]
    head = f"| site | test subjects | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}\n"
    worst = scores.worst_site
    text = head + "\n".join(rows)
    if untested is not None:
        text = f"**Of the last model, after round {round}, and not of the weights in this zip.**\n\n{text}"
    if worst is not None:
        text += f"\n\nWorst site: {shown(worst)}, {scores.sites[worst].psnr_db:.2f} dB."
    if summary.suppressed:
        text += f"\n\nHeld back by the site: {', '.join(map(shown, summary.suppressed))}."
    text += f"\n\nFigures are those of the last model, after round {round}, on whole volumes scaled to [0, 1]"
    if config.personal == "none":
        return f"{text}."
    return f"{text}, with the common last layer. A site that has one of its own gets better ones there."


def _styles(sites: Sequence[str]) -> str:
    if not sites:
        return "No last layer of a single site is in this zip."
    return (
        f"Last layers that sites share, each solved from that site's own subjects without noise: {', '.join(sites)}."
        " `synthesize --style SITE` makes volumes like that site's, at a hospital that has no target to solve its own"
        " from."
    )


def _privacy(config: RunConfig, summary: Summary | None) -> str:
    if not config.privacy.on:
        return "Trained without differential privacy: nothing bounds what the weights tell of a training subject."
    text = (
        f"Patient-level differential privacy. Each site allowed epsilon {config.privacy.epsilon:g} at delta"
        f" {config.privacy.delta:g} for the whole run, for its own subjects."
    )
    if summary is None or not summary.privacy:
        return text + " What it has spent stands in its own ledger."
    spent = ", ".join(f"{shown(site)} {values['epsilon']:.2f}" for site, values in sorted(summary.privacy.items()))
    return f"{text} Spent: {spent}."


def _preparation(config: RunConfig) -> str:
    scenario = parse_scenario(config.scenario)
    reference = scenario.reference(config.reference)
    spacing = "its own" if config.spacing_mm is None else " x ".join(f"{size:g}" for size in config.spacing_mm)
    seen = "Axial slices" if config.model.dims == 2 else f"Overlapping windows of {' x '.join(map(str, config.crop))}"
    register = ", after they were registered to it rigidly" if config.data.register == "rigid" else ""
    return (
        f"* Each source is scaled to [0, 1] between its 0.5th and 99.5th percentile. Values that lie far from all"
        " others do not count, nor do the zeros of a skull-stripped scan. The unit of a scan, and a factor on it,"
        " change nothing.\n"
        f"* The others are put on the grid of {reference} by their headers{register}; its spacing in mm: {spacing}.\n"
        f"* {seen}, in the box around all non-zero voxels. Where every source is zero, the output is zero.\n"
        f"* Output: {scenario.target} on the grid of {reference}; 0 stands for percentile 0.5 and 1 for 99.5 of a real"
        " scan. It has no physical unit."
    )


def _settings(config: RunConfig) -> str:
    model = config.model
    values = {
        "scenario": config.scenario,
        "rounds": config.rounds,
        "training.local_steps": config.training.local_steps,
        "federation.aggregation": config.federation.aggregation,
        "model.dims": model.dims,
        "model.widths": [*model.widths],
        "model.alignment": model.alignment,
        "model.neighbours": model.neighbours,
        "model.prior": model.prior,
        "personal": config.personal,
    }
    return "\n".join(f"* `{name}`: {value}" for name, value in values.items())


def _limits(config: RunConfig, summary: Summary | None, untested: Best | None) -> str:
    lines = [
        "* It has seen the scanners of the sites above. Nobody knows how it does on another one: test it on complete"
        " subjects of your own first (`python -m agi_core adapt` for a run folder).",
        "* Outside of a source's field of view the output is a guess.",
        "* Images of children, of implants or after surgery were not looked for among the training subjects.",
    ]
    subjects = 0 if summary is None or untested is not None else summary.scores.subjects
    if subjects < 30:
        lines.append(f"* It was tested on {subjects} subjects, which is too few to trust a mean.")
    if config.training.align_target:
        reference = parse_scenario(config.scenario).reference(config.reference)
        lines.append(
            f"* It was trained for the target's place on {reference}. Real ones lay elsewhere: scores are too low."
        )
    lines += [f"* The run warned: {flag}." for flag in (() if summary is None else summary.flags)]
    return "\n".join(lines)


def _formats(refused: Mapping[str, str]) -> str:
    lines = ["* safetensors and `model.pt` (state dict): `models/model.safetensors`, `models/model.pt`"]
    more = {
        "pt2": ("`.pt2` (torch.export)", "models/model.pt2"),
        "onnx": ("ONNX", "models/model.onnx"),
        **{kind: (f"{kind}, from means over subjects without noise", path) for kind, path in DOUBTS.items()},
    }
    for kind, (name, path) in more.items():
        reason = refused.get(kind)
        lines.append(f"* {name}: `{path}`" if reason is None else f"* {name}: not in this zip: {reason}")
    return "\n".join(lines)
