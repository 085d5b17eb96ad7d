"""The end of a run: example slices, summary.json and report.html."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from agi_core.config.schema import RunConfig
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import evaluation_slices, evenly_spaced
from agi_core.data.phantom.built_in import origin
from agi_core.evaluation import predict_session
from agi_core.network import Network
from agi_core.report.examples import Example, Image, write_examples
from agi_core.report.report import build_report
from agi_core.report.sections import MAX_SLICES
from agi_core.run.checkpoint import load_weights
from agi_core.run.event_log import events_of
from agi_core.run.events import RunStarted
from agi_core.run.scores import Scores
from agi_core.run.summary import Summary, summarise, write_summary
from agi_core.scoring.volume import image_fault
from client.site.opened import open_site
from simulations.baselines import SitesData, with_own_weights
from simulations.inspection import mean_attention, moved_sources, recorded_attention, through_plane
from simulations.milestones import read_milestones, shown_slice

SLICES = 3  # of a subject


def write_results(
    run_dir: Path,
    *,
    config: RunConfig,
    data: SitesData,
    baselines: Mapping[str, Scores],
    privacy: Mapping[str, Mapping[str, float]],
    wall_s: float,
) -> tuple[Summary, Path]:
    """Write the example slices, the summary and the report of a finished run; returns the summary and the report's
    path. `privacy` is what each site has spent."""
    synthetic, anatomies = origin(config.data)
    network = Network(config, device=data.device)
    network.load(load_weights(run_dir))
    examples = _examples(network, config, data, run_dir=run_dir)
    own = config.privacy.on and config.personal != "none" and not network.volumetric
    # A private site tells no such figure; these ones are simulated.
    personal = with_own_weights(network, data, task=config.task) if own else None
    summary = summarise(
        run_dir, config, wall_s=wall_s, baselines=baselines, personal=personal, faults=faults_of(examples)
    )
    summary = dataclasses.replace(
        summary,
        synthetic=synthetic,
        anatomies=anatomies,
        privacy=privacy,
        delta=config.privacy.delta,
    )
    write_summary(run_dir, summary)
    write_examples(run_dir, examples)
    return summary, build_report(run_dir)


def faults_of(examples: Iterable[Example]) -> list[str]:
    """What is wrong with the predictions that are shown: of each site the first slice with a fault."""
    found: dict[str, str] = {}
    for example in examples:
        if fault := image_fault(example.prediction[example.foreground]):
            found.setdefault(example.site, f"{example.title}: the synthetic slice is {fault}")
    return [*found.values()]


def privacy_spent(config: RunConfig, run_dir: Path, site_paths: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """{site: `spent_at`} from the sites' ledgers; empty when the run was not private."""
    if not config.privacy.on:
        return {}
    from client.work.private_training import spent_at  # here, because Opacus takes seconds to import and is an option

    spent = {}
    run = events_of(run_dir, RunStarted)[0].run_id
    for name in config.federation.sites:
        site = open_site(site_paths[name])
        assert site.file.privacy is not None  # noqa: S101  write_sites gave it to every site that trains
        subjects = site.scans(config.task).subjects
        whose = subjects.identities(subjects.train)
        spent[name] = spent_at(site.file, site.file.privacy, subjects=whose, delta=config.privacy.delta, run=run)
    return spent


def _examples(network: Network, config: RunConfig, data: SitesData, *, run_dir: Path) -> list[Example]:
    """Slices of each site's first test subject, as many as the report has room for: first that with most foreground."""
    tested = [
        (site, unseen, sessions[0])
        for unseen, sites in ((False, data.test), (True, data.unseen))
        for site, sessions in sites.items()
        if sessions
    ]
    others = max(0, min(SLICES, MAX_SLICES // max(1, len(tested))) - 1)
    return [
        example
        for site, unseen, session in tested
        for example in _slices(
            network,
            session,
            others,
            site=site,
            unseen=unseen,
            config=config,
            earlier={} if unseen else read_milestones(run_dir, site),
        )
    ]


def _slices(
    network: Network,
    session: CachedSession,
    others: int,
    *,
    site: str,
    unseen: bool,
    config: RunConfig,
    earlier: Mapping[int, Image],
) -> Iterator[Example]:
    """The slice with most foreground, with its predictions on the way and with what its diagnostics need of the whole
    session; then so many others."""
    right_mm, anterior_mm, _ = session.spacing_mm
    most = shown_slice(session)
    with recorded_attention(network.module) as attention:
        parts = [
            (prediction, batch.target, batch.foreground) for prediction, batch in predict_session(network, session)
        ]
    prediction, target, foreground = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))  # (D, H, W) each
    title = f"{site}, test subject 1"

    def slice_of(k: int) -> Example:
        (shown,) = evaluation_slices(session, batch_size=1, indices=[k])
        return Example(
            site=site,
            unseen=unseen,
            title=title if k == most else f"{title}, slice {k + 1} of {len(target)}",
            sources=dict(zip(network.scenario.sources, shown.sources[0].numpy(), strict=True)),
            target=target[k].numpy(),
            prediction=prediction[k].numpy(),
            foreground=foreground[k].numpy(),
            spacing_mm=(anterior_mm, right_mm),
        )

    yield dataclasses.replace(
        slice_of(most),
        earlier=earlier,
        moved=moved_sources(network, session, most, data=config.data),
        attention=mean_attention(attention, config=config),
        through_plane=through_plane(target, prediction, foreground),
    )
    yield from (slice_of(k) for k in evenly_spaced(session, others) if k != most)
