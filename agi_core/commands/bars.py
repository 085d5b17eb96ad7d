"""What a command shows on the terminal while it works. Nothing is shown where the output is a file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress

from agi_core.run import progress

Bar = Callable[[int, int], None]  # is told how many are done, of how many


@contextmanager
def bars() -> Iterator[Callable[[str], Bar]]:
    """Within the block, a bar for each description."""
    with Progress(transient=True, disable=not sys.stdout.isatty()) as live:

        def bar(description: str) -> Bar:
            task = live.add_task(description, total=None)
            return lambda done, total: live.update(task, completed=done, total=total)

        yield bar


@contextmanager
def showing_steps() -> Iterator[None]:
    """Within the block, one bar of what is reported as a step."""
    with Progress(transient=True, disable=not sys.stdout.isatty()) as live:
        bar = live.add_task("starting", total=None)

        def show(news: progress.News) -> None:
            if isinstance(news, progress.Step):
                live.update(bar, description=news.phase, completed=news.step, total=news.steps)

        with progress.listening(show):
            yield
