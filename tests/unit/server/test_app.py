from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from agi_core.config.load import load_config
from agi_core.run import run_folder
from server import app, run_state, runs
from simulations.local_grid import LocalGrid


@pytest.mark.parametrize("scenario", ["T1,T2:PD", "T1,T2:any"])
def test_a_deployed_run_notes_its_own_process_once_it_holds_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    """Whoever started it may have been killed before the note, and then nothing could stop the run."""
    run_dir, noted = tmp_path / "first", []
    overrides = {"engine": "deployment", "federation.sites": ["A"], "scenario": scenario}
    run_folder.create(run_dir, load_config(None, overrides=overrides | {"federation.offers": {"A": ["T1", "T2"]}}))

    def look(*_: object) -> None:
        noted.append((run_state.is_held(run_dir), (run_dir / runs.FLOWER_RUN).read_text()))

    monkeypatch.setattr(app, "carry_out", look)
    monkeypatch.setattr(app.StudyRounds, "run", look)
    context = Context(101, 1, {}, RecordDict(), {"run-dir": str(run_dir)})
    app.main(LocalGrid(ClientApp(), []), context)
    assert noted == [(True, "101")]
    assert not run_state.is_held(run_dir)
