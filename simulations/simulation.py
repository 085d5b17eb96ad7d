"""A simulation from data to report: finds the scans, divides them into sites, trains one model over all of them, scores
it and writes a report. Without a folder of scans it uses built-in synthetic data.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from agi_core.host.flower_environment import QUIET

os.environ.update(QUIET | os.environ)

from agi_core.cells import is_vocabulary, parse_vocabulary
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.data.phantom.built_in import SIMULATED, with_built_in_data
from agi_core.errors import ConfigError
from agi_core.host.device import open_device
from agi_core.run import checkpoint, run_folder
from agi_core.run.event_log import EventLog, read_events
from agi_core.run.events import RunFinished
from agi_core.run.initial_weights import as_begun, initial_weights, keep, weights_file
from agi_core.run.summary import Summary
from agi_core.scenario import parse_scenario
from agi_core.segmentation.visits import MODALITIES
from client.app import app as client_app
from server.app import app as server_app
from simulations.baselines import finished_baselines, open_sites, run_baselines, training_alone
from simulations.display import Display
from simulations.local_grid import run_in_process
from simulations.milestones import drop_damaged, watched
from simulations.poses import with_measured_poses
from simulations.pretrained import with_pretrained_weights
from simulations.printed import print_plan, print_results
from simulations.process_grid import run_in_processes
from simulations.results import privacy_spent, write_results
from simulations.sites import (
    KEPT_SEGMENTER,
    Federation,
    WholeRun,
    find_sites,
    note_data,
    prepare_caches,
    training_subjects,
    write_sites,
)
from simulations.workers import processes_for

BUILT_IN_DIR = Path(".cache")
Engine = Callable[..., None]  # of node_configs and run_config


def simulate(config: RunConfig, run_dir: Path, *, resume: bool, compare: bool, console: Console) -> None:
    """One whole run: data, sites, federation, baselines, results.

    Raises:
        AgiError: anything that the user can mend; what was finished is kept.
    """
    open_device(config.device, threads=config.threads, deterministic=config.deterministic, compiled=config.compile)
    run_engine = engine_of(config)
    with nullcontext() if resume else run_folder.begun(run_dir, config):
        config = with_data(config, console, run_dir=run_dir)
        initial_weights(as_begun(config, run_dir))  # an unusable file is named before the scans are read
        reference_chosen = config.reference is not None
        config, federation = find_sites(config)
        run = prepare(config, federation, run_dir, reference_chosen=reference_chosen, console=console)
        print_plan(run.config, run.federation, console)
        if run.poses:
            console.print(run.poses)
    summary, report_path = carry_out(run, run_engine, compare=compare, console=console)
    print_results(summary, run_dir, report_path, console=console)


def with_data(config: RunConfig, console: Console, *, run_dir: Path | None) -> RunConfig:
    """The configuration with a data folder, see `with_built_in_data`, and with a segmentation network's fingerprint.

    Raises:
        ConfigError, RunError: `data.segmenter` is no such network, another than the run began with, or of no use in it.
    """
    config = _with_segmenter(config, run_dir)

    def announce(data_dir: Path) -> None:
        console.print(f"making built-in synthetic data in {data_dir} (once)")

    with Display(console, config).showing():
        return with_built_in_data(config, SIMULATED, work_dir=BUILT_IN_DIR.resolve(), on_making=announce)


def _with_segmenter(config: RunConfig, run_dir: Path | None) -> RunConfig:
    if config.data.segmenter is None:
        if config.evaluation.segmenter is not None:
            raise ConfigError("evaluation.segmenter is for hospitals; give a simulation the file: data.segmenter=FILE")
        return config
    if config.privacy.on:
        raise ConfigError(
            "data.segmenter asks for figures in tumours, which no private run tells; leave it out, or privacy.epsilon"
        )
    scenario = config.scenario
    made = parse_vocabulary(scenario).modalities if is_vocabulary(scenario) else (parse_scenario(scenario).target,)
    if not {*made} & {*MODALITIES}:
        raise ConfigError(
            f"data.segmenter: the network is given {', '.join(MODALITIES)}, and {scenario} makes none of them;"
            " leave it out"
        )
    from agi_core.segmentation.segmenter import read_segmenter  # here, because few runs have one

    asked = config.evaluation.segmenter
    kept = None if run_dir is None else run_dir / KEPT_SEGMENTER  # a run that goes on needs the file no longer
    path = kept if kept and asked and kept.is_file() else Path(config.data.segmenter)
    its = read_segmenter(path).hash
    if asked not in (None, its):
        raise ConfigError(f"{path} is the segmentation network {its}, and the run asks for {asked}")
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, segmenter=its))


@dataclass(frozen=True)
class PreparedRun:
    """A run whose scans have been read. `poses` says what was measured for it; it is empty where nothing was."""

    run_dir: Path
    config: RunConfig
    federation: Federation
    site_paths: Mapping[str, Path]
    poses: str


def prepare(
    config: RunConfig,
    federation: Federation,
    run_dir: Path,
    *,
    reference_chosen: bool,
    console: Console,
    study: WholeRun | None = None,
) -> PreparedRun:
    """Read all scans, and write what the run begins with into its folder. `study`: see `write_sites`.

    Raises:
        AgiError: a scan is unusable, or a run that goes on finds other scans than before.
    """
    poses = ""
    with Display(console, config).showing():
        federation = prepare_caches(config, federation)
        if new := checkpoint.load_last(run_dir) is None:  # a run goes on as it began
            config, poses = with_measured_poses(
                config, training_subjects(config, federation), reference_chosen=reference_chosen
            )
    config = with_pretrained_weights(config, BUILT_IN_DIR, console)
    site_paths = write_sites(run_dir, config, federation, study=study)
    if new:
        keep(run_dir, config)
        run_folder.write_config(run_dir, config)
        note_data(run_dir, config, federation)
    return PreparedRun(run_dir, config, federation, site_paths, poses)


def carry_out(run: PreparedRun, run_engine: Engine, *, compare: bool, console: Console) -> tuple[Summary, Path]:
    """Train and test, then run the baselines; the summary, and the path of the report.

    Raises:
        AgiError: the run cannot go on; what was finished is kept.
    """
    config, run_dir = run.config, run.run_dir
    for round in drop_damaged(run_dir):
        console.print(f"warning: the slices kept after round {round} are damaged, and dropped")
    names, begun = _baselines(config, run_dir, compare=compare), as_begun(config, run_dir)
    early = "local_only" in names and "local_only" not in finished_baselines(run_dir)
    with Display(console, config).showing(), training_alone(begun, run.site_paths, early=early) as alone:
        node_configs = [{"site": site, "site-config": str(path)} for site, path in run.site_paths.items()]
        run_config = {"run-dir": str(run_dir.resolve())}
        with watched(run_dir, config, run.site_paths):
            run_engine(node_configs=node_configs, run_config=run_config)
        events = EventLog(run_dir, elapsed_s=read_events(run_dir)[-1].t_s)
        data = open_sites(config, run.site_paths, alone=alone)
        baselines = run_baselines(names, config=begun, data=data, run_dir=run_dir, events=events)
        events.append(RunFinished())
    return write_results(
        run_dir,
        config=config,
        data=data,
        baselines=baselines,
        privacy=privacy_spent(config, run_dir, run.site_paths),
        wall_s=events.elapsed_s,
    )


def _baselines(config: RunConfig, run_dir: Path, *, compare: bool) -> list[str]:
    """The names of those that are due, and of those that the folder holds."""
    names = ["voxel_regression", "regression_pooled", "regression_per_site"]
    names += ["initial_weights"] if weights_file(config) else []
    if config.privacy.on:
        names += ["public_own_last_layer"] if weights_file(config) and config.model.dims == 2 else []
        names += ["without_privacy"]
    names += ["local_only"] if compare or not config.privacy.on else []
    names += ["centralised"] if compare else []
    return names + [name for name in finished_baselines(run_dir) if name not in names]


def engine_of(config: RunConfig) -> Engine:
    """The engine's function, before hours are spent on anything else.

    Raises:
        ConfigError: Ray is asked for, and not installed; or the engine is that of real sites.
    """
    if config.engine == DEPLOYMENT:
        raise ConfigError("engine=deployment is for real sites; start such a run with: python -m server submit")
    if config.engine == "ray":
        from simulations.ray_engine import check_ray, run_on_ray  # here, because Ray is an extra

        check_ray()
        device = open_device(config.device, threads=config.threads)
        gpus = config.gpus_per_client if device.type == "cuda" else 0.0
        return partial(run_on_ray, server_app, client_app, threads=config.threads, gpus=gpus)

    def run(*, node_configs: Sequence[Mapping[str, str]], run_config: Mapping[str, str]) -> None:
        if (processes := processes_for(config, sites=len(node_configs))) > 1:
            run_in_processes(server_app, node_configs=node_configs, run_config=run_config, processes=processes)
        else:
            run_in_process(server_app, client_app, node_configs=node_configs, run_config=run_config)

    return run
