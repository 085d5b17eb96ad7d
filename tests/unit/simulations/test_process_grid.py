"""The engine of processes, where one of them is killed. That its results are those of the in-process engine is seen in
`tests/integration/test_kill.py`."""

import os
import signal

import pytest
from flwr.app import Message, RecordDict

from agi_core.errors import RunError
from server.messages import pull_answer
from simulations.process_grid import ProcessGrid
from simulations.workers import Workers


def test_a_killed_process_ends_the_run_with_a_sentence() -> None:
    with Workers(1) as workers:
        grid = ProcessGrid(workers, [{"site": "A"}])
        os.kill(workers.result(workers.submit(os.getpid, at=0)), signal.SIGKILL)
        (message_id,) = grid.push_messages([Message(RecordDict(), 2, "train")])
        with pytest.raises(RunError, match="was killed, often because memory is short"):
            pull_answer(grid, message_id)
