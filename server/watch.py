"""`python -m server status --watch`: the status again and again, until Ctrl-C."""

import contextlib
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from server.coordinator import CoordinatorDir
from server.status import coordinator_status
from server.status_text import status_text

LOOK_S = 3.0


def watch(coordinator: CoordinatorDir) -> None:
    """In place on a terminal; elsewhere the text is printed whenever it has changed."""
    console, shown = Console(), ""
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            text = status_text(coordinator_status(coordinator))
            if console.is_terminal:
                live.update(Text(f"{text}\n{time.strftime('%H:%M:%S')}, stop with Ctrl-C"), refresh=True)
            elif text != shown:
                print(shown := text, flush=True)
            time.sleep(LOOK_S)
