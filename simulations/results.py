"""The end of a run: example slices, summary.json and report.html."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from agi_core.config.schema import RunConfig
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import evaluation_slices
from agi_core.evaluation import predict_session
from agi_core.network import Network
from agi_core.report.examples import Example, write_examples
from agi_core.report.report import build_report
from agi_core.run.checkpoint import load_weights
from agi_core.run.scores import Scores
from agi_core.run.summary import Summary, summarise, write_summary
from simulations.baselines import SitesData
from simulations.inspection import mean_attention, moved_sources, recorded_attention, through_plane


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
    synthetic, anatomies = origin(config)
    summary = dataclasses.replace(
        summarise(run_dir, config, wall_s=wall_s),
        baselines=baselines,
        synthetic=synthetic,
        anatomies=anatomies,
        privacy=privacy,
        delta=config.privacy.delta,
    )
    write_summary(run_dir, summary)
    write_examples(run_dir, _examples(run_dir, config, data))
    return summary, build_report(run_dir)


def origin(config: RunConfig) -> tuple[bool, int | None]:
    """(whether the scans are built-in synthetic data, how many brains that data is made from)."""
    marker = Path(str(config.data.dir)) / "phantom.json"
    values = json.loads(marker.read_text()) if marker.is_file() else {}
    return bool(values.get("synthetic", False)), values.get("anatomies")


def _examples(run_dir: Path, config: RunConfig, data: SitesData) -> list[Example]:
    """The slice with most foreground of each site's first test subject."""
    network = Network(config, device=data.device)
    network.load(load_weights(run_dir))
    sites = [(site, False, sessions) for site, sessions in data.test.items()] + [
        (site, True, s) for site, s in data.unseen.items()
    ]
    return [
        _example(network, sessions[0], site=site, unseen=unseen, config=config)
        for site, unseen, sessions in sites
        if sessions
    ]


def _example(network: Network, session: CachedSession, *, site: str, unseen: bool, config: RunConfig) -> Example:
    """A slice of a session, and what its diagnostics need of the whole of it."""
    right_mm, anterior_mm, _ = session.spacing_mm
    k = int(np.argmax(session.foreground_fraction))
    with recorded_attention(network.module) as attention:
        parts = [
            (prediction, batch.target, batch.foreground) for prediction, batch in predict_session(network, session)
        ]
    prediction, target, foreground = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))  # (D, H, W) each
    (shown,) = evaluation_slices(session, batch_size=1, indices=[k])
    return Example(
        site=site,
        unseen=unseen,
        title=f"{site}, test subject 1",
        sources=dict(zip(network.scenario.sources, shown.sources[0].numpy(), strict=True)),
        target=target[k].numpy(),
        prediction=prediction[k].numpy(),
        foreground=foreground[k].numpy(),
        spacing_mm=(anterior_mm, right_mm),
        moved=moved_sources(network, session, k, data=config.data),
        attention=mean_attention(attention, config=config),
        through_plane=through_plane(target, prediction, foreground),
    )
