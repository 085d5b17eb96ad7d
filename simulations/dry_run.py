"""`--dry-run`: what a run would train where, from the names and headers of the scans alone."""

from pathlib import Path

from rich.console import Console

from agi_core.cells import is_vocabulary
from agi_core.config.schema import RunConfig
from agi_core.host.device import open_device
from agi_core.run import run_folder
from server.study_plan import cell_config
from simulations.holders import find_holders, plan_of, sites_of
from simulations.poses import measures_poses
from simulations.printed import print_cell, print_plan, print_vocabulary
from simulations.simulation import engine_of, with_data
from simulations.sites import find_sites


def dry_run(config: RunConfig, console: Console, *, run_dir: Path | None) -> None:
    """Print what a run prints before it trains. Nothing is written but built-in data, where that is not there yet.

    Args:
        run_dir: the folder that the run is to have; None = not named.

    Raises:
        DataError, ConfigError, RunError: the run would end before it trained.
    """
    open_device(config.device, threads=config.threads, deterministic=config.deterministic, compiled=config.compile)
    engine_of(config)
    if run_dir is not None:
        run_folder.check_empty(run_dir)
    chosen = config.reference is not None
    config = with_data(config, console, run_dir=None)
    if is_vocabulary(config.scenario):
        config, everybody = find_holders(config)
        plan = plan_of(config, everybody)
        print_vocabulary(config, everybody, plan, console)
        for cell in plan.trained:
            print_cell(*sites_of(cell_config(config, cell, plan), cell, plan, everybody), poses="", console=console)
    else:
        config, federation = find_sites(config)
        print_plan(config, federation, console)
    if measures_poses(config) and not chosen:
        console.print("the run measures the scans first, and may take another reference")
    console.print("dry run: nothing was trained, and there is no run folder")
