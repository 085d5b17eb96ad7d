"""Telling somebody that a run has paused, was interrupted or is finished: by a command, or a POST to a URL."""

import http.client
import json
import shlex
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from agi_core.errors import AgiError
from server import runs
from server.coordinator import CoordinatorDir
from server.status import run_status

TOLD = ("paused", "interrupted", "finished")
LOOK_S, CALL_S = 5.0, 60.0


@dataclass(frozen=True)
class News:
    """What has become of a run; `reason` is empty where nothing went wrong."""

    run: str
    state: str
    reason: str


def watching(coordinator: CoordinatorDir, tell: Callable[[News], None]) -> threading.Thread:
    """Tell each change of a run to a state of `TOLD` from now on, in a thread that ends with the process. A run that
    has not begun yet is not interrupted."""
    before = _states(coordinator, {})

    def watch() -> None:
        nonlocal before
        while True:
            now = _states(coordinator, before)
            for name, news in now.items():
                old = before.get(name)
                begun = news.state != "interrupted" or (old is not None and old.state == "running")
                if news != old and news.state in TOLD and begun:
                    tell(news)
            before = now
            threading.Event().wait(LOOK_S)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def tell(target: str, news: News) -> None:
    """Call a command with the words run, state and reason, or post them to a URL as JSON. A fault is printed: the
    coordinator goes on."""
    try:
        if target.startswith(("http://", "https://")):
            request = urllib.request.Request(  # noqa: S310  http or https, as the coordinator's own user typed it
                target, data=json.dumps(asdict(news)).encode(), headers={"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=CALL_S).close()  # noqa: S310
        else:
            subprocess.run(
                [*shlex.split(target), news.run, news.state, news.reason],
                check=True,
                timeout=CALL_S,
                stdin=subprocess.DEVNULL,
            )
    except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as error:
        print(f"warning: --notify {target} failed: {error}", flush=True)


def _states(coordinator: CoordinatorDir, before: Mapping[str, News]) -> dict[str, News]:
    """Of each run; a finished one stays so, and its events, which may be many, are not read again."""
    states = {}
    for run_dir in runs.by_start(coordinator):
        known = before.get(run_dir.name)
        if known is not None and known.state == "finished" and (run_dir / "summary.json").is_file():
            states[run_dir.name] = known
            continue
        try:
            run = run_status(run_dir)
        except (AgiError, OSError):  # a file that is being written, or a damaged one, which `status` names
            continue
        states[run.name] = News(run.name, run.state, run.reason or "")
    return states
