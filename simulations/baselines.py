"""What a federation is compared with, at equal budget: K local steps in each of R rounds.

initial weights    what the federation started from, as it is; where that was pre-trained
voxel regression   one cubic fit of the sources as they are, pooled over all training sites
regression pooled  the same of aligned sources: with the mean and without privacy, the federation's prior alone
regression per site   each site's own, shrunk to the pooled one as the site's own prior is
local-only         R*K steps per site on its own subjects, with a prior of its own if the network has one, a last layer
                   of its own if the federation's sites have them, and (R+1)*K steps if these train one more round;
                   scored on its own test subjects and on the unseen sites'
centralised        R*K steps on the pooled subjects, with batch N*B for N sites of batch B, and a last layer solved from
                   all of them where the federation solves its own
own last layer     for a private run: each site's own last layer on the initial weights, which are public: no patient's
                   scan leaves a mark outside of the site, so it spends no epsilon
without privacy    for a private run: the same federation, with all weights trained by plain AdamW on as many crops

Every network starts from the federation's own initial weights. Local-only and centralised have no term of FedProx: it
holds a site to the common weights of a round. A finished baseline is kept in `baselines/NAME.json`; an interrupted one
is trained anew, and so is one whose file is damaged.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from agi_core.config.schema import FederationConfig, PrivacyConfig, RunConfig, Task
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import TrainingSlices
from agi_core.errors import RunError
from agi_core.evaluation import evaluate
from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.keys import rounds_alone
from agi_core.metrics import mean_over_subjects
from agi_core.network import Network
from agi_core.personal import own_weights
from agi_core.prediction import Predictor
from agi_core.readout import readout_statistics
from agi_core.ridge import STRENGTH, Statistics, Vector, solve_own
from agi_core.run import progress
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import BaselineFinished
from agi_core.run.initial_weights import initial_weights
from agi_core.run.scores import Scores, SiteScore, SiteScores
from agi_core.training import train_round
from agi_core.voxel_regression import AlignedRegression, VoxelRegression
from client.site.opened import open_site
from server.aggregation import SiteUpdate
from server.last_layer import solves_last_layer
from server.run_state import keep_events
from server.server_step import next_weights
from simulations.ahead import Ahead
from simulations.workers import idle_processes_for, processes_for

Alone = Ahead[tuple[SiteScores, SiteScores]]


@dataclasses.dataclass(frozen=True)
class SitesData:
    """The opened data of a simulated federation."""

    training: Mapping[str, TrainingSlices]
    prior_statistics: Mapping[str, Sequence[Statistics]]  # of each training subject, as without privacy
    test: Mapping[str, Sequence[CachedSession]]
    unseen: Mapping[str, Sequence[CachedSession]]
    device: torch.device
    alone: Alone | None = None  # the sites that train alone side by side, where the run's engine has them so


def open_sites(config: RunConfig, site_paths: Mapping[str, Path], *, alone: Alone | None = None) -> SitesData:
    """Training, test and unseen sessions of every site."""
    scans = {site: open_site(path).scans(config.task) for site, path in site_paths.items()}
    model = dataclasses.replace(config.model, prior="cubic")
    with_prior = dataclasses.replace(config.task, model=model, privacy=PrivacyConfig())
    training, unseen = config.federation.sites, config.federation.unseen_sites
    return SitesData(
        training={site: scans[site].training for site in training},
        prior_statistics={
            site: [*open_site(site_paths[site]).scans(with_prior).prior_statistics.values()] for site in training
        },
        test={site: scans[site].test for site in training},
        unseen={site: scans[site].everybody for site in unseen},
        device=open_device(config.device, threads=config.threads),
        alone=alone,
    )


def finished_baselines(run_dir: Path) -> list[str]:
    """The names of those that this run folder holds."""
    return [name for name in BASELINES if _path(run_dir, name).is_file()]


def run_baselines(
    names: Sequence[str], *, config: RunConfig, data: SitesData, run_dir: Path, events: EventLog
) -> dict[str, Scores]:
    """Run the named baselines that this run folder does not hold yet; {name: scores} of all of them. The event of each
    outlives a resume: its seconds are part of the run's."""
    results = {}
    told = {event.name for event in events_of(run_dir, BaselineFinished)} if events.size_bytes else set()
    for name in names:
        path = _path(run_dir, name)
        kept = _kept(path)
        if (its := kept) is None:
            its = BASELINES[name](config, data)
            atomic.write_json(path, its.to_json())
        results[name] = its
        if kept is None or name not in told:
            events.append(BaselineFinished.of(name, its))
            keep_events(run_dir, events)
    return results


def _path(run_dir: Path, name: str) -> Path:
    return run_dir / "baselines" / f"{name}.json"


def _kept(path: Path) -> Scores | None:
    """What an earlier process has kept; None where there is nothing, or a damaged file, which is made again."""
    try:
        return Scores.read(path)
    except RunError:
        return None


def voxel_regression(config: RunConfig, data: SitesData) -> Scores:
    """One pooled cubic fit; see `agi_core.voxel_regression`."""
    fit = VoxelRegression.fit(session for slices in data.training.values() for session in slices.sessions)
    return _scored(fit, data)


def regression_pooled(config: RunConfig, data: SitesData) -> Scores:
    """One pooled cubic fit of aligned sources: each subject counts alike, and nothing is noised, whatever the run does
    for its prior."""
    return _scored(_regression(config, data, _pooled(data)), data)


def regression_per_site(config: RunConfig, data: SitesData) -> Scores:
    """Each site's own prior alone; an unseen site has none."""
    pooled = _pooled(data)
    sites: dict[str, SiteScore] = {}
    for site, statistics in data.prior_statistics.items():
        own = _regression(config, data, solve_own(statistics, towards=pooled))
        sites |= site_scores(own, {site: data.test[site]})
    return Scores.over(sites, {})


def _regression(config: RunConfig, data: SitesData, coefficients: Vector) -> AlignedRegression:
    """The polynomial behind the alignment of the run's network."""
    with_prior = dataclasses.replace(config.task, model=dataclasses.replace(config.model, prior="cubic"))
    return AlignedRegression(Network(with_prior, device=data.device), coefficients)


def _pooled(data: SitesData) -> Vector:
    """Each site counts as often as it has training subjects, as in `server.common_prior`."""
    statistics = [subject for subjects in data.prior_statistics.values() for subject in subjects]
    return Statistics.mean(statistics).solve(strength=STRENGTH)


def untrained(config: RunConfig, data: SitesData) -> Scores:
    """The federation's initial weights."""
    return _scored(_initial_network(config, data.device), data)


def public_own_last_layer(config: RunConfig, data: SitesData) -> Scores:
    """Each site's own last layer on the federation's initial weights."""
    task = dataclasses.replace(config.task, personal="head")
    return with_own_weights(_initial_network(config, data.device), data, task=task)


def with_own_weights(network: Network, data: SitesData, *, task: Task) -> Scores:
    """A network's scores where each site has made it its own. An unseen site has none."""
    sites: dict[str, SiteScore] = {}
    common = {name: array.copy() for name, array in network.weights.items()}
    for site, slices in data.training.items():
        own = own_weights(network, slices, task=task, site=site)
        network.load({**common, **own})
        sites |= site_scores(network, {site: data.test[site]})
        network.load(common)
    return Scores.over(sites, {})


def centralised(config: RunConfig, data: SitesData) -> Scores:
    """R*K steps on the pooled subjects with batch N*B."""
    sessions = [session for slices in data.training.values() for session in slices.sessions]
    task = _one_long_round(config, batch_size=config.training.batch_size * len(data.training))
    network = _initial_network(config, data.device)
    if network.prior is not None:
        network.set_prior(_pooled(data))
    _train(network, task, TrainingSlices.of(task, sessions), site="centralised", phase="centralised")
    if solves_last_layer(config):
        _solve_last_layer(network, data)
    return _scored(network, data)


def without_privacy(config: RunConfig, data: SitesData) -> Scores:
    """A private run's federation without privacy, which solves its last layer from all statistics."""
    network = trained_without_privacy(config, data)
    if solves_last_layer(dataclasses.replace(config, privacy=PrivacyConfig())):
        _solve_last_layer(network, data)
    return _scored(network, data)


def _solve_last_layer(network: Network, data: SitesData) -> None:
    """Give it the last layer that fits all training subjects, as a federation without privacy does."""
    of_sites = [readout_statistics(network, slices.sessions).values() for slices in data.training.values()]
    pooled = Statistics.mean([statistics for its in of_sites for statistics in its])
    network.set_readout(pooled.solve(strength=STRENGTH, towards=network.readout))


def trained_without_privacy(config: RunConfig, data: SitesData) -> Network:
    """The model of a private run's federation without privacy: over a prior from all statistics, which stays the common
    one, and where there is `personal` each site trains over its own; averaged by subjects. A site looks at as many
    crops in a round as it does privately, at the same learning rate: a larger one forgets what was learned in
    pre-training."""
    network = _initial_network(config, data.device)
    common = None if network.prior is None else _pooled(data)
    own = dict.fromkeys(data.training, common)
    if common is not None and config.personal != "none":
        own = {site: solve_own(statistics, towards=common) for site, statistics in data.prior_statistics.items()}
    tasks = {site: _as_many_crops(config, len(slices.subjects)) for site, slices in data.training.items()}
    for round_number in range(1, config.rounds + 1):
        sent, updates = {name: array.copy() for name, array in network.weights.items()}, []
        for site, slices in data.training.items():
            network.load(sent)
            phase = f"without privacy, round {round_number}/{config.rounds}"
            if (prior := own[site]) is not None:
                network.set_prior(prior)
            _train(network, tasks[site], slices, site=site, phase=phase, round=round_number)
            if common is not None:
                network.set_prior(common)
            trained = {name: array.copy() for name, array in network.weights.items()}
            updates.append(SiteUpdate(site, trained, len(slices.subjects)))
        network.load(next_weights(sent, updates, velocity={}, config=FederationConfig())[0])
    return network


def _as_many_crops(config: RunConfig, subjects: int) -> Task:
    """A task without privacy that looks at as many crops in a round as the private one does at a site of this size."""
    privacy = config.privacy
    crops = privacy.lot_rate * subjects * config.training.local_steps * privacy.slices_per_subject
    steps = max(1, round(crops / config.training.batch_size))
    training = dataclasses.replace(config.training, local_steps=steps, learning_rate=privacy.learning_rate)
    return dataclasses.replace(config.task, training=training, privacy=PrivacyConfig())


def local_only(config: RunConfig, data: SitesData) -> Scores:
    """R*K steps per site, and those of the personal model. An unseen site's score is the mean over the local models."""
    scores = data.alone.results() if data.alone else {site: _local_only(config, data, site) for site in data.training}
    by_model = {site: unseen for site, (_, unseen) in scores.items()}
    unseen = {name: _mean_over_models([scores[name] for scores in by_model.values()]) for name in data.unseen}
    return Scores.over({site: own for each, _ in scores.values() for site, own in each.items()}, unseen, by_model)


@contextmanager
def training_alone(config: RunConfig, site_paths: Mapping[str, Path], *, early: bool) -> Iterator[Alone | None]:
    """The sites that train alone, side by side where the run's engine has them so. Where it is `early`, they begin with
    the block, on cores that would wait for the federation."""
    sites = config.federation.sites
    if (processes := processes_for(config, sites=len(sites))) == 1:
        yield None
        return
    work = partial(_alone_at, config, site_paths)
    idle = idle_processes_for(config, sites=len(sites)) if early else 0
    with Ahead(work, sites, processes=processes, early=idle) as alone:
        yield alone


def _alone_at(config: RunConfig, site_paths: Mapping[str, Path], site: str) -> tuple[SiteScores, SiteScores]:
    """In another process, which opens what it needs."""
    alone = dataclasses.replace(config, federation=dataclasses.replace(config.federation, sites=(site,)))
    opened = {name: path for name, path in site_paths.items() if name in (site, *alone.federation.unseen_sites)}
    return _local_only(alone, open_sites(alone, opened), site)


def _local_only(config: RunConfig, data: SitesData, site: str) -> tuple[SiteScores, SiteScores]:
    """The scores of one site's model: on its own test subjects, and at the unseen sites."""
    whole = dataclasses.replace(config, rounds=rounds_alone(config))
    task = _one_long_round(whole, batch_size=config.training.batch_size)
    network, slices = _initial_network(config, data.device), data.training[site]
    if network.prior is not None:
        network.set_prior(solve_own(data.prior_statistics[site], towards=network.prior))
    _train(network, task, slices, site=site, phase="local-only")
    if config.personal != "none":
        statistics = readout_statistics(network, slices.sessions)
        network.set_readout(solve_own([*statistics.values()], towards=network.readout))
    return site_scores(network, {site: data.test[site]}), site_scores(network, data.unseen)


BASELINES: dict[str, Callable[[RunConfig, SitesData], Scores]] = {
    "initial_weights": untrained,
    "voxel_regression": voxel_regression,
    "regression_pooled": regression_pooled,
    "regression_per_site": regression_per_site,
    "public_own_last_layer": public_own_last_layer,
    "local_only": local_only,
    "centralised": centralised,
    "without_privacy": without_privacy,
}


def _one_long_round(config: RunConfig, *, batch_size: int) -> Task:
    training = dataclasses.replace(
        config.training,
        local_steps=config.rounds * config.training.local_steps,
        batch_size=batch_size,
        proximal=0.0,
    )
    return dataclasses.replace(config.task, rounds=1, training=training)


def _initial_network(config: RunConfig, device: torch.device) -> Network:
    network = Network(config, device=device, compiled=config.compile)
    network.load(initial_weights(config))
    return network


def _train(network: Network, task: Task, slices: TrainingSlices, *, site: str, phase: str, round: int = 1) -> None:
    """One round in place."""
    on_step = progress.steps_of(phase, site)
    train_round(network.module, slices.draw, task=task, site=site, round=round, on_step=on_step)


def _scored(predictor: Predictor, data: SitesData) -> Scores:
    return Scores.over(site_scores(predictor, data.test), site_scores(predictor, data.unseen))


def site_scores(predictor: Predictor, sites: Mapping[str, Sequence[CachedSession]]) -> dict[str, SiteScore]:
    """{site: means over its subjects}; sites without subjects are left out."""
    means: dict[str, SiteScore] = {}
    for site, sessions in sites.items():
        whole = [(session, None) for session in sessions]
        if scores := evaluate(predictor, whole, on_session=progress.steps_of("test", site)):
            means[site] = SiteScore(mean_over_subjects(scores.values()), len(scores))
    return means


def _mean_over_models(scores: Sequence[SiteScore]) -> SiteScore:
    """Mean of several models' scores of one site, each over the same subjects."""
    means = {name: sum(score.metrics[name] for score in scores) / len(scores) for name in scores[0].metrics}
    return SiteScore(means, scores[0].subjects)
