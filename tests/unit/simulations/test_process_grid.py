"""The engine of processes, where one of them is killed or slow. That its results are those of the in-process engine is
seen in `tests/integration/test_kill.py`."""

import os
import signal
import time

import pytest
from flwr.app import Message, RecordDict

from agi_core.errors import RunError
from server.messages import pull_answer
from simulations.process_grid import ProcessGrid
from simulations.workers import Workers

DEADLINE_S = 60.0


def test_a_killed_process_ends_the_run_with_a_sentence() -> None:
    with Workers(1) as workers:
        grid = ProcessGrid(workers, [{"site": "A"}])
        os.kill(workers.result(workers.submit(os.getpid, at=0)), signal.SIGKILL)
        (message_id,) = grid.push_messages([Message(RecordDict(), 2, "train")])
        with pytest.raises(RunError, match="was killed, often because memory is short"):
            pull_in_time(grid, message_id)


def test_an_answer_does_not_wait_for_a_slower_site() -> None:
    with Workers(2) as workers:
        grid = ProcessGrid(workers, [{"site": "A"}, {"site": "B"}])
        workers.submit(time.sleep, DEADLINE_S, at=2)  # the process of A, which is node 2
        slow, fast = grid.push_messages([Message(RecordDict(), node, "train") for node in (2, 3)])
        assert pull_in_time(grid, fast).metadata.src_node_id == 3
        assert pull_answer(grid, slow) is None


def pull_in_time(grid: ProcessGrid, message_id: str) -> Message:
    deadline = time.monotonic() + DEADLINE_S
    while (answer := pull_answer(grid, message_id)) is None:
        assert time.monotonic() < deadline
    return answer
