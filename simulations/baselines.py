"""What a federation is compared with, at equal budget: K local steps in each of R rounds.

initial weights    what the federation started from, as it is; where that was pre-trained
voxel regression   one cubic fit, pooled over all training sites
local-only         R*K steps per site on its own subjects, scored on its own test subjects and on the unseen sites'
centralised        R*K steps on the pooled subjects, with batch N*B for N sites of batch B
without privacy    for a private run: the same federation, with all weights trained by plain AdamW on as many crops

Every network starts from the federation's own initial weights. A finished baseline is kept in `baselines/NAME.json`; an
interrupted one is trained anew.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from agi_core.config.schema import FederationConfig, PrivacyConfig, RunConfig, Task
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import TrainingSlices
from agi_core.evaluation import evaluate
from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.prediction import Predictor
from agi_core.run import progress
from agi_core.run.initial_weights import initial_weights
from agi_core.run.run_folder import EventLog
from agi_core.training import train_round
from agi_core.voxel_regression import VoxelRegression
from client.site.opened import open_site
from server.aggregation import SiteUpdate
from server.evaluation import over_subjects
from server.server_step import next_weights

Row = dict[str, Any]
Rows = dict[str, Row]


@dataclasses.dataclass(frozen=True)
class SitesData:
    """The opened data of a simulated federation."""

    training: Mapping[str, TrainingSlices]
    test: Mapping[str, Sequence[CachedSession]]
    unseen: Mapping[str, Sequence[CachedSession]]
    device: torch.device


def open_sites(config: RunConfig, site_paths: Mapping[str, Path]) -> SitesData:
    """Training, test and unseen sessions of every site."""
    scans = {site: open_site(path).scans(config.task) for site, path in site_paths.items()}
    training, unseen = config.federation.sites, config.federation.unseen_sites
    return SitesData(
        training={site: scans[site].training for site in training},
        test={site: scans[site].test for site in training},
        unseen={site: scans[site].everybody for site in unseen},
        device=open_device(config.device, threads=config.threads),
    )


def run_baselines(
    names: Sequence[str], *, config: RunConfig, data: SitesData, run_dir: Path, events: EventLog
) -> dict[str, Row]:
    """Run the named baselines that this run folder does not hold yet; {name: {"final", "sites", "unseen_sites"}} of all
    of them."""
    results = {}
    for name in names:
        path = run_dir / "baselines" / f"{name}.json"
        if not path.is_file():
            atomic.write_json(path, BASELINES[name](config, data))
        results[name] = json.loads(path.read_text())
        events.append("baseline_finished", name=name, final=results[name]["final"])
    return results


def voxel_regression(config: RunConfig, data: SitesData) -> Row:
    """One pooled cubic fit; see `agi_core.voxel_regression`."""
    fit = VoxelRegression.fit(session for slices in data.training.values() for session in slices.sessions)
    return _scored(fit, data)


def untrained(config: RunConfig, data: SitesData) -> Row:
    """The federation's initial weights."""
    return _scored(_initial_network(config, data.device), data)


def centralised(config: RunConfig, data: SitesData) -> Row:
    """R*K steps on the pooled subjects with batch N*B."""
    sessions = [session for slices in data.training.values() for session in slices.sessions]
    task = _one_long_round(config, batch_size=config.training.batch_size * len(data.training))
    network = _initial_network(config, data.device)
    _train(network, task, TrainingSlices.of(task, sessions), site="centralised", phase="centralised")
    return _scored(network, data)


def without_privacy(config: RunConfig, data: SitesData) -> Row:
    """A private run's federation without privacy, averaged by subjects. A site looks at as many crops in a round as it
    does privately, at the same learning rate: a larger one forgets what was learned in pre-training."""
    network = _initial_network(config, data.device)
    tasks = {site: _as_many_crops(config, len(slices.subjects)) for site, slices in data.training.items()}
    for round_number in range(1, config.rounds + 1):
        sent, updates = {name: array.copy() for name, array in network.weights.items()}, []
        for site, slices in data.training.items():
            network.load(sent)
            phase = f"without privacy, round {round_number}/{config.rounds}"
            _train(network, tasks[site], slices, site=site, phase=phase, round=round_number)
            trained = {name: array.copy() for name, array in network.weights.items()}
            updates.append(SiteUpdate(site, trained, len(slices.subjects)))
        network.load(next_weights(sent, updates, velocity={}, config=FederationConfig())[0])
    return _scored(network, data)


def _as_many_crops(config: RunConfig, subjects: int) -> Task:
    """A task without privacy that looks at as many crops in a round as the private one does at a site of this size."""
    privacy = config.privacy
    crops = privacy.lot_rate * subjects * config.training.local_steps * privacy.slices_per_subject
    steps = max(1, round(crops / config.training.batch_size))
    training = dataclasses.replace(config.training, local_steps=steps, learning_rate=privacy.learning_rate)
    return dataclasses.replace(config.task, training=training, privacy=PrivacyConfig())


def local_only(config: RunConfig, data: SitesData) -> Row:
    """R*K steps per site. An unseen site's row is the mean over the local models; "unseen_by_model" holds each
    one's."""
    task = _one_long_round(config, batch_size=config.training.batch_size)
    sites: Rows = {}
    by_model: dict[str, Rows] = {}
    for site, slices in data.training.items():
        network = _initial_network(config, data.device)
        _train(network, task, slices, site=site, phase="local-only")
        sites |= _rows(network, {site: data.test[site]})
        by_model[site] = _rows(network, data.unseen)
    unseen = {name: _mean_row([rows[name] for rows in by_model.values()]) for name in data.unseen}
    return {"final": over_subjects(sites), "sites": sites, "unseen_sites": unseen, "unseen_by_model": by_model}


BASELINES: dict[str, Callable[[RunConfig, SitesData], Row]] = {
    "initial_weights": untrained,
    "voxel_regression": voxel_regression,
    "local_only": local_only,
    "centralised": centralised,
    "without_privacy": without_privacy,
}


def _one_long_round(config: RunConfig, *, batch_size: int) -> Task:
    training = dataclasses.replace(
        config.training, local_steps=config.rounds * config.training.local_steps, batch_size=batch_size
    )
    return dataclasses.replace(config.task, rounds=1, training=training)


def _initial_network(config: RunConfig, device: torch.device) -> Network:
    network = Network(config, device=device)
    network.load(initial_weights(config))
    return network


def _train(network: Network, task: Task, slices: TrainingSlices, *, site: str, phase: str, round: int = 1) -> None:
    """One round in place."""

    def on_step(step: int, steps: int, loss: float) -> None:
        progress.report(progress.Step(phase, site, step, steps, loss))

    train_round(network.module, slices.draw, task=task, site=site, round=round, on_step=on_step)


def _scored(predictor: Predictor, data: SitesData) -> Row:
    sites = _rows(predictor, data.test)
    return {"final": over_subjects(sites), "sites": sites, "unseen_sites": _rows(predictor, data.unseen)}


def _rows(predictor: Predictor, sites: Mapping[str, Sequence[CachedSession]]) -> Rows:
    """{site: {metric: mean over its subjects, "subjects": n}}; sites without subjects are left out."""
    rows: Rows = {}
    for site, sessions in sites.items():
        on_session = partial(_report_test, site, len(sessions))
        whole = ((session, None) for session in sessions)
        scores = evaluate(predictor, whole, on_session=on_session)
        if scores:
            rows[site] = {**mean_over_subjects(scores.values()), "subjects": len(scores)}
    return rows


def _report_test(site: str, sessions: int, done: int) -> None:
    progress.report(progress.Step("test", site, done, sessions))


def _mean_row(rows: Sequence[Row]) -> Row:
    """Mean of several models' rows of one site, each over the same subjects."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "subjects"} | {
        "subjects": rows[0]["subjects"]
    }
