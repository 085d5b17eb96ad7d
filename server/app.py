"""The Flower ServerApp: a run from where it stands to its end. `server.rounds` holds the rounds themselves, and
`server.study` a run over a vocabulary."""

from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from agi_core.cells import is_vocabulary
from agi_core.config.schema import DEPLOYMENT
from agi_core.run import run_folder
from server import run_state, runs, strikes
from server.blending import Blending
from server.certificates import read_request_key
from server.rounds import Rounds
from server.study import StudyRounds
from server.whole_run import carry_out

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Start or resume the run whose folder the run configuration names. A deployed run also ends with its summary and
    report; a simulation writes its own, because they need the scans."""
    run_dir = Path(str(context.run_config["run-dir"]))
    strikes_path = Path(str(context.run_config.get("strikes-path") or run_dir / strikes.FILE))
    key_path = str(context.run_config.get("key-path") or "")
    # a simulated site does not ask for a signature, for nobody else can write to it
    key = read_request_key(Path(key_path)) if key_path else Ed25519PrivateKey.generate()
    config = run_folder.open_existing(run_dir)
    rounds = partial(Rounds, grid, run_dir, strikes_path=strikes_path, key=key)
    if config.engine == DEPLOYMENT:
        with run_state.holding(run_dir):
            runs.note_process(run_dir, str(context.run_id))  # who started it may have been killed before that
            if is_vocabulary(config.scenario):
                StudyRounds(grid, run_dir, strikes_path=strikes_path, key=key).run()
            else:
                carry_out(run_dir, rounds)
    elif is_vocabulary(config.scenario):  # a simulation has trained each cell as a run of its own
        Blending(grid, run_dir, strikes_path=strikes_path, key=key).run()
    else:
        rounds().run()
