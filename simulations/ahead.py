"""Work that is due later, begun on cores that would wait: five sites on two cores train in three turns, and in the
third one a core has nothing to do.

What is begun so has the lowest priority: the system gives it the time that nobody else wants. It costs the memory of
one more process for each core that would wait.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, Self, TypeVar

from simulations.workers import Workers

T = TypeVar("T")
POLL_S = 0.2  # until it is noticed that the block ends


class Ahead(Generic[T]):
    """`work` on each of the names, in at most so many processes; it is a function that can be imported. Of these
    processes `early` begin with the block, the others when the results are asked for. Each takes a name when it has
    none, and all end with the block."""

    def __init__(self, work: Callable[[str], T], names: Iterable[str], *, processes: int, early: int) -> None:
        self._work, self._names = work, [*names]
        self._left: SimpleQueue[str] = SimpleQueue()
        for name in self._names:
            self._left.put(name)
        self._done: dict[str, T] = {}
        self._ended = threading.Event()
        self._threads = ThreadPoolExecutor(processes)
        self._early, self._later = early, processes - early

    def __enter__(self) -> Self:
        self._begun = [self._threads.submit(self._take, lowest_priority=True) for _ in range(self._early)]
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._threads.shutdown()

    def results(self) -> dict[str, T]:
        """{name: what the work on it returned}; waits for all. It can be asked for once.

        Raises:
            RunError, RuntimeError: as `Workers.result`.
        """
        self._begun += [self._threads.submit(self._take, lowest_priority=False) for _ in range(self._later)]
        for thread in self._begun:
            thread.result()
        return {name: self._done[name] for name in self._names}

    def _take(self, *, lowest_priority: bool) -> None:
        """One name after another, in a process of its own."""
        with Workers(1, lowest_priority=lowest_priority) as workers:
            while not self._ended.is_set():
                try:
                    name = self._left.get_nowait()
                except Empty:
                    return
                job = workers.submit(self._work, name, at=0)
                while not workers.is_done(job, within_s=POLL_S):
                    if self._ended.is_set():
                        return
                self._done[name] = workers.result(job)
