"""The end of a run over a vocabulary: the blends' scores, `summary.json` and `report.html`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from agi_core.blend import Blend
from agi_core.cell_plan import Plan
from agi_core.config.schema import RunConfig
from agi_core.data.phantom.built_in import origin
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.protocol import Weights
from agi_core.report.report import build_report
from agi_core.run import progress
from agi_core.run.checkpoint import load_weights, load_with_trained_layer
from agi_core.run.events import BlendSolved
from agi_core.run.scores import Scores
from agi_core.run.study_summary import BlendScores, StudySummary, cell_results, write_study_summary
from agi_core.scenario import Scenario, parse_scenario
from agi_core.voxel_regression import AlignedRegression
from simulations.baselines import site_scores
from simulations.holders import complete_for, scored_at
from simulations.simulation import PreparedRun
from simulations.sites import Federation, to_score


def write_study_results(
    run_dir: Path, *, config: RunConfig, runs: Mapping[Scenario, PreparedRun], plan: Plan, everybody: Federation
) -> tuple[StudySummary, Path]:
    """Score the blends, and write the summary and the report of the whole run; the summary, and the report's path."""
    synthetic, anatomies = origin(config.data)
    networks = {cell: _network(run, load_weights(run.run_dir)) for cell, run in runs.items()} if plan.blends else {}
    solved = {cell: network for cell, network in networks.items() if network.prior_gram is not None}
    priors = {network: _regression(runs[cell]) for cell, network in solved.items()}

    def score(event: BlendSolved) -> BlendScores:
        cell = parse_scenario(event.cell)
        weights = {networks[expert]: event.weights[str(expert)] for expert in plan.blends[cell]}
        return _blend_scores(cell, weights, priors, config=config, plan=plan, everybody=everybody)

    summary = StudySummary(
        scenario=config.scenario,
        cells=cell_results(run_dir, score=score),
        offers=config.federation.offers,
        synthetic=synthetic,
        anatomies=anatomies,
        unseen_anatomy=config.data.unseen_anatomy,
        delta=config.privacy.delta if config.privacy.on else None,
    )
    write_study_summary(run_dir, summary)
    return summary, build_report(run_dir)


def _network(run: PreparedRun, weights: Weights) -> Network:
    network = Network(run.config, device=open_device(run.config.device, threads=run.config.threads))
    network.load(weights)
    return network


def _regression(run: PreparedRun) -> AlignedRegression:
    """The prior that the run's network was trained over."""
    trained = _network(run, load_with_trained_layer(run.run_dir))
    assert trained.prior is not None  # noqa: S101  the caller has looked
    return AlignedRegression(trained, trained.prior)


def _blend_scores(
    cell: Scenario,
    weights: Mapping[Network, float],
    priors: Mapping[Network, AlignedRegression],
    *,
    config: RunConfig,
    plan: Plan,
    everybody: Federation,
) -> BlendScores:
    """Of a blend and of the same blend of its experts' priors, where test subjects have the target, hidden or not."""
    used = {expert: weight for expert, weight in weights.items() if weight}
    blend, experts = Blend.of([*used.items()], sources=cell.sources), [*used]
    scans, cache_dir = Scans.of(config.data), Path(config.data.cache_dir).resolve()
    task = dataclasses.replace(config.task, scenario=str(cell), reference=cell.sources[blend.pose])
    preparation = Preparation.of(task, scans, cache_dir=cache_dir, whole=True)
    scored = scored_at(cell, plan, everybody, complete=complete_for(cell, everybody))
    sessions = {
        site: preparation.open(to_score(subjects, config), on_session=progress.steps_of("reading scans", site))
        for site, subjects in scored.items()
    }
    if not sessions:
        return None, None
    scores = Scores.over({}, site_scores(blend, sessions))
    if not {*experts} <= priors.keys():
        return scores, None
    return scores, Scores.over({}, site_scores(blend.made_by([priors[expert] for expert in experts]), sessions))
