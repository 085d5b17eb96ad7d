"""The folder of a run over T1, T2, PD: three cells with random weights, and one blend of two of them."""

from pathlib import Path

from agi_core.cells import BLENDS, folder_of
from agi_core.config.schema import RunConfig
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.run import run_folder
from agi_core.run.study_summary import StudySummary, write_study_summary
from agi_core.scenario import parse_scenario
from tests.support.finished_run import finished_run

TRAINED = ("T1:PD", "T2:PD", "T2:T1")
BLENDED = {"T1,T2:PD": {"T1:PD": 0.25, "T2:PD": 0.75}}


def vocabulary_run(run_dir: Path) -> dict[str, Network]:
    """Write the folder; the networks of its cells."""
    run_folder.create(run_dir, RunConfig(scenario="T1,T2,PD:any"))
    atomic.write_json(run_dir / BLENDS, BLENDED)
    write_study_summary(run_dir, StudySummary(scenario="T1,T2,PD:any", cells={}, offers={}))
    return {cell: finished_run(folder_of(run_dir, parse_scenario(cell)), scenario=cell) for cell in TRAINED}
