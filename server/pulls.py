"""The answers of a grid, none of which holds up another.

Flower announces an answer before its parts have arrived, and its pull then waits for them: up to two hours for parts
that nobody sends. So each pull is a thread of its own as soon as it takes long. What a caller no longer wants it
leaves behind: the thread ends when Flower gives up, or with the process. In a simulation the pull is the site's own
work, which the sites do in turn with one network: there nothing goes on beside it.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from server.messages import pull_answer, pull_uninvited

PATIENCE_S = 0.2  # of one look at all answers; a pull that takes longer goes on beside the others
MOST_UNINVITED = 32  # that are waited for at a time; a site must not fill the process with threads
T = TypeVar("T")


class Pulls:
    """What is being pulled from a grid; `beside` each other, or in turn."""

    def __init__(self, grid: Grid, *, beside: bool) -> None:
        self._grid, self._beside = grid, beside
        self._answers: dict[str, Future[Message | None]] = {}
        self._uninvited: list[Future[None]] = []
        self._until_s = 0.0

    def look(self) -> None:
        """Begin another look: the pulls of all its answers are waited for `PATIENCE_S` together, however many they are.
        What nobody asked for is taken in passing, as `pull_uninvited` does."""
        self._until_s = time.monotonic() + PATIENCE_S
        self._uninvited = [pull for pull in self._uninvited if not pull.done()]
        if len(self._uninvited) < MOST_UNINVITED:
            pull = _started(partial(pull_uninvited, self._grid))
            if self._is_done(pull):
                pull.result()
            else:
                self._uninvited.append(pull)

    def answer(self, message_id: str) -> Message | None:
        """The answer to one message; None while it is not there, or not whole. Raises as `pull_answer` does."""
        if not self._beside:
            return pull_answer(self._grid, message_id)
        if message_id not in self._answers:
            self._answers[message_id] = _started(partial(pull_answer, self._grid, message_id))
        if not self._is_done(self._answers[message_id]):
            return None
        return self._answers.pop(message_id).result()

    def forget(self) -> None:
        """Wait no longer for the answers that have not come."""
        self._answers.clear()

    def _is_done(self, future: "Future[T]") -> bool:
        return bool(wait([future], timeout=max(0.0, self._until_s - time.monotonic())).done)


def _started(work: Callable[[], T]) -> "Future[T]":
    """The future of work in a thread that does not keep the process alive, unlike an executor's."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
