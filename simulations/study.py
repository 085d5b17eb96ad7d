"""A simulation over a vocabulary: one federation per cell, each an ordinary run in a folder of its own, then blends of
those for the cells that no site can train (`agi_core.cells`, docs/any_to_any.md).
"""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from agi_core.cell_plan import Plan
from agi_core.cells import folder_of
from agi_core.config.schema import RunConfig
from agi_core.host.device import open_device
from agi_core.run import run_folder
from agi_core.run.initial_weights import as_begun, initial_weights
from agi_core.run.summary import FILE_NAME
from agi_core.scenario import Scenario
from server.study_plan import cell_config
from simulations.display import Display
from simulations.holders import find_holders, plan_of, sites_of, write_splits
from simulations.printed import print_cell, print_learnt, print_matrix, print_vocabulary
from simulations.simulation import PreparedRun, carry_out, engine_of, prepare, with_data
from simulations.sites import Federation, WholeRun, write_sites
from simulations.study_results import write_study_results


def study(config: RunConfig, run_dir: Path, *, resume: bool, compare: bool, console: Console) -> None:
    """Every cell that a site can train, one after another, then the blends and the matrix of results. A run that goes
    on leaves finished cells as they are, unless more baselines are asked for.

    Raises:
        AgiError: anything that the user can mend; what was finished is kept.
    """
    open_device(config.device, threads=config.threads, deterministic=config.deterministic, compiled=config.compile)
    run_engine = engine_of(config)
    with nullcontext() if resume else run_folder.begun(run_dir, config):
        config = with_data(config, console, run_dir=run_dir)
        config, everybody = find_holders(config)
        plan = plan_of(config, everybody)
        print_vocabulary(config, everybody, plan, console)
        site_paths = write_sites(run_dir, config, everybody)
        write_splits(run_dir, everybody)
        runs = _prepared(run_dir, config, everybody, plan, console)
        run_folder.write_config(run_dir, config)
    for number, (cell, run) in enumerate(runs.items(), start=1):
        if compare or not (run.run_dir / FILE_NAME).is_file():
            console.print(f"cell {number} of {len(runs)}: {cell}")
            its_summary, _ = carry_out(run, run_engine, compare=compare, console=console)
            print_learnt(its_summary, console)
    if plan.blends:
        node_configs = [{"site": site, "site-config": str(site_paths[site])} for site in config.federation.sites]
        with Display(console, config).showing():
            run_engine(node_configs=node_configs, run_config={"run-dir": str(run_dir.resolve())})
    summary, report_path = write_study_results(run_dir, config=config, runs=runs, plan=plan, everybody=everybody)
    print_matrix(summary, run_dir, report_path, console)


def _prepared(
    run_dir: Path, config: RunConfig, everybody: Federation, plan: Plan, console: Console
) -> Mapping[Scenario, PreparedRun]:
    """The run of each trained cell. All scans are read before any cell is trained."""
    runs = {}
    for cell in plan.trained:
        cell_dir = folder_of(run_dir, cell)
        begun = (cell_dir / "config.yaml").is_file()
        if not begun:
            shutil.rmtree(cell_dir, ignore_errors=True)  # of a process that was killed while it made the folder
        its = run_folder.open_existing(cell_dir) if begun else cell_config(config, cell, plan)
        with nullcontext() if begun else run_folder.begun(cell_dir, its):
            initial_weights(as_begun(its, cell_dir))
            chosen = its.reference is not None
            its, federation = sites_of(its, cell, plan, everybody)
            runs[cell] = prepare(
                its,
                federation,
                cell_dir,
                reference_chosen=chosen,
                console=console,
                study=WholeRun(run_dir, config),
            )
        print_cell(runs[cell].config, runs[cell].federation, poses=runs[cell].poses, console=console)
    return runs
