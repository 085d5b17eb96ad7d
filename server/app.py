"""The Flower ServerApp: a run from where it stands to its end. `server.rounds` holds the rounds themselves."""

import contextlib
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from agi_core.cells import is_vocabulary
from agi_core.config.schema import DEPLOYMENT
from agi_core.errors import AgiError
from agi_core.report.report import build_report
from agi_core.run import progress, run_folder
from agi_core.run.event_log import events_of, read_events
from agi_core.run.events import BaselineFinished
from agi_core.run.scores import Scores
from agi_core.run.summary import summarise, write_summary
from server import run_state, strikes
from server.blending import Blending
from server.certificates import read_request_key
from server.follow import follow
from server.rounds import Rounds

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
    rounds = partial(Rounds, grid, run_dir, strikes_path=strikes_path, key=key)
    config = run_folder.open_existing(run_dir)
    if is_vocabulary(config.scenario):  # a simulation has trained each cell as a run of its own
        Blending(grid, run_dir, strikes_path=strikes_path, key=key).run()
        return
    if config.engine != DEPLOYMENT:
        rounds().run()
        return
    with run_state.holding(run_dir), progress.listening(partial(follow, run_dir)):
        try:
            rounds().run()
            baselines = {event.name: Scores(event.final, event.sites) for event in events_of(run_dir, BaselineFinished)}
            summary = summarise(run_dir, config, wall_s=read_events(run_dir)[-1].t_s, baselines=baselines)
            write_summary(run_dir, summary)
        except AgiError:
            with contextlib.suppress(AgiError):  # the disk may be full
                build_report(run_dir)
            raise
        build_report(run_dir)
        for flag in summary.flags:
            print(f"{run_dir.name}: warning: {flag}", flush=True)
