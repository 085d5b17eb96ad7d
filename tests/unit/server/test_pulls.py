"""Looking at the answers of many sites, of whom none holds up another."""

import threading
import time
from collections.abc import Iterable

import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from server import pulls
from server.pulls import Pulls
from simulations.local_grid import LocalGrid


class Slow(LocalGrid):
    """Every pull takes until the test is over."""

    def __init__(self) -> None:
        super().__init__(ClientApp(), [])
        self.over, self.pulled = threading.Event(), list[str]()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulled += message_ids
        self.over.wait()
        return []


def test_all_answers_of_a_look_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, forty of them would take twenty seconds."""
    monkeypatch.setattr(pulls, "PATIENCE_S", 0.5)
    grid, ids = Slow(), [f"m{n}" for n in range(40)]
    some = Pulls(grid, beside=True)
    began = time.monotonic()
    try:
        for _ in range(2):
            some.look()
            assert [some.answer(message_id) for message_id in ids] == [None] * 40
    finally:
        grid.over.set()
    assert time.monotonic() - began < 10
    assert sorted(grid.pulled) == sorted(ids)  # nobody is asked again while a pull goes on
