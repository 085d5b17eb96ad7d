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
from torch import nn

from agi_core.config.load import task_json
from agi_core.config.schema import PrivacyConfig, RunConfig, Task
from agi_core.data.datasets import TrainingSlices
from agi_core.data.misalignment import perturbation
from agi_core.data.preparation import CachedSession
from agi_core.host import atomic
from agi_core.metrics import mean_over_subjects
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import spatial_multiple
from agi_core.prediction import Predict, predictor
from agi_core.protocol import ALL, TEST
from agi_core.run import progress
from agi_core.run.initial_weights import initial_weights
from agi_core.run.run_folder import EventLog
from agi_core.scenario import parse_scenario
from agi_core.training import evaluate, train_round
from agi_core.voxel_regression import fit
from client.site.file import read_site
from client.work.trainer import open_device, open_training, open_whole
from server.evaluation import over_subjects

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
    text = task_json(config.task)
    training, unseen = config.federation.sites, config.federation.unseen_sites
    return SitesData(
        training={site: open_training(site_paths[site], text) for site in training},
        test={site: open_whole(site_paths[site], text, TEST) for site in training},
        unseen={site: open_whole(site_paths[site], text, ALL) for site in unseen},
        device=open_device(read_site(site_paths[training[0]])),
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
    predict = fit(session for slices in data.training.values() for session in slices.sessions)
    return _scored(predict, config, data)


def untrained(config: RunConfig, data: SitesData) -> Row:
    """The federation's initial weights."""
    return _scored(
        predictor(_initial_model(config, data.device), multiple=spatial_multiple(config.model)), config, data
    )


def centralised(config: RunConfig, data: SitesData) -> Row:
    """R*K steps on the pooled subjects with batch N*B."""
    sessions = [session for slices in data.training.values() for session in slices.sessions]
    perturb = perturbation(config.training.misalign, parse_scenario(config.scenario))
    pooled = TrainingSlices(sessions, crop=config.crop, neighbours=config.model.neighbours, perturb=perturb)
    task = _one_long_round(config, batch_size=config.training.batch_size * len(data.training))
    model = _initial_model(config, data.device)
    return _scored(_trained(model, task, pooled, site="centralised"), config, data)


def without_privacy(config: RunConfig, data: SitesData) -> Row:
    """A private run's federation without privacy, averaged by subjects. A site looks at as many crops in a round as it
    does privately, at the same learning rate: a larger one forgets what was learned in pre-training."""
    privacy, batch_size = config.privacy, config.training.batch_size
    model = _initial_model(config, data.device)
    counts = {site: len(slices.subjects) for site, slices in data.training.items()}
    tasks = {}
    for site, count in counts.items():
        crops = privacy.lot_rate * count * config.training.local_steps * privacy.slices_per_subject
        steps = max(1, round(crops / batch_size))
        training = dataclasses.replace(config.training, local_steps=steps, learning_rate=privacy.learning_rate)
        tasks[site] = dataclasses.replace(config.task, training=training, privacy=PrivacyConfig())
    for round_number in range(1, config.rounds + 1):
        global_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        total = {name: torch.zeros_like(tensor) for name, tensor in global_weights.items()}
        for site, slices in data.training.items():
            model.load_state_dict(global_weights)
            train_round(
                model,
                slices.draw,
                task=tasks[site],
                site=site,
                round=round_number,
                on_step=partial(_report_step, f"without privacy, round {round_number}/{config.rounds}", site),
            )
            for name, tensor in model.state_dict().items():
                total[name] += counts[site] / sum(counts.values()) * tensor
        model.load_state_dict(total)
    return _scored(predictor(model, multiple=spatial_multiple(config.model), crop=config.crop), config, data)


def local_only(config: RunConfig, data: SitesData) -> Row:
    """R*K steps per site. An unseen site's row is the mean over the local models; "unseen_by_model" holds each
    one's."""
    task = _one_long_round(config, batch_size=config.training.batch_size)
    sites: Rows = {}
    by_model: dict[str, Rows] = {}
    for site, slices in data.training.items():
        predict = _trained(_initial_model(config, data.device), task, slices, site=site, phase="local-only")
        sites |= _rows(predict, {site: data.test[site]}, config)
        by_model[site] = _rows(predict, data.unseen, config)
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


def _initial_model(config: RunConfig, device: torch.device) -> nn.Module:
    scenario = parse_scenario(config.scenario)
    reference = scenario.number_of(config.reference)
    model = build_model(config.model, sources=len(scenario.sources), reference=reference)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in initial_weights(config).items()})
    return model.to(device)


def _trained(model: nn.Module, task: Task, slices: TrainingSlices, *, site: str, phase: str = "centralised") -> Predict:
    train_round(model, slices.draw, task=task, site=site, round=1, on_step=partial(_report_step, phase, site))
    return predictor(model, multiple=spatial_multiple(task.model), crop=task.crop)


def _scored(predict: Predict, config: RunConfig, data: SitesData) -> Row:
    sites = _rows(predict, data.test, config)
    return {"final": over_subjects(sites), "sites": sites, "unseen_sites": _rows(predict, data.unseen, config)}


def _rows(predict: Predict, sites: Mapping[str, Sequence[CachedSession]], config: RunConfig) -> Rows:
    """{site: {metric: mean over its subjects, "subjects": n}}; sites without subjects are left out."""
    rows: Rows = {}
    for site, sessions in sites.items():
        on_session = partial(_report_test, site, len(sessions))
        whole = ((session, None) for session in sessions)
        scores = evaluate(predict, whole, neighbours=config.model.neighbours, on_session=on_session)
        if scores:
            rows[site] = {**mean_over_subjects(scores.values()), "subjects": len(scores)}
    return rows


def _report_step(phase: str, site: str, step: int, steps: int, loss: float) -> None:
    progress.report(progress.Step(phase, site, step, steps, loss))


def _report_test(site: str, sessions: int, done: int) -> None:
    progress.report(progress.Step("test", site, done, sessions))


def _mean_row(rows: Sequence[Row]) -> Row:
    """Mean of several models' rows of one site, each over the same subjects."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "subjects"} | {
        "subjects": rows[0]["subjects"]
    }
