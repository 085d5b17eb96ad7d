"""What a hospital engineer sees while the client runs: connection, round, step, time left, last metrics, and every
known error as a sentence with a next step.

A terminal is redrawn in place. Elsewhere a line is printed when something changes.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from agi_core.host.console import printable
from agi_core.run.duration import duration
from client.process.child import ChildState
from client.process.flower_errors import CONNECTED, connection_state, explain

NODE, RUNNER = "node", "runner"
NOT_CONNECTED = "not connected"
REPEAT_S = 600.0  # the same sentence is printed again only after this time
_LOG_CHARACTERS = 4_000  # the last of a program's log, in which the cause of its end is looked for
_OWN_ERROR = re.compile(r"^error: (.+)$", re.MULTILINE)  # how our own programs end with a sentence
_METRICS_SHOWN = ("train_loss", "validation_psnr_db", "validation_ssim", "psnr_db", "ssim", "seconds")


class Terminal:
    """Listens to the supervisor and reads the runner's `status.json`.

    Args:
        site: the site's name.
        address: the coordinator's.
        status_path: written by the runner: pid, state, run, round, step, steps, seconds_left, metrics.
    """

    def __init__(self, console: Console, *, site: str, address: str, status_path: Path) -> None:
        self._console, self._site, self._address, self._status_path = console, site, address, status_path
        self._connection = "starting"
        self._runner = "starting"
        self._logs: dict[str, str] = {}
        self._running: dict[str, int | None] = {}
        self._said: dict[str, float] = {}
        self._shown = ""
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def showing(self) -> AbstractContextManager[object]:
        """Draw within the block, on a terminal."""
        return self._live

    def hear(self, children: Sequence[ChildState]) -> None:
        """Take in how the node and the runner are, and show it."""
        for child in children:
            self._follow(child)
        status = self._status()
        if status.get("refused"):
            self._say(f"refused {status.get('run')}: {printable(status['refused'], longest=500)}")
        work = _work(status, self._running.get(RUNNER), self._runner)
        if self._console.is_terminal:
            text = "\n".join((f"{self._site} -> {self._address}: {self._connection}", *work))
        else:
            work_alone = work[0].split("  ")[0]  # without step and time left
            text = f"{self._site} -> {self._address}: {self._connection}; {work_alone}"
        if text == self._shown:
            return
        self._shown = text
        if self._console.is_terminal:
            self._live.update(Text(text), refresh=True)
        else:
            self._print(text)

    def _follow(self, child: ChildState) -> None:
        started = child.pid is not None and child.pid != self._running.get(child.name)
        ended = child.pid is None and self._running.get(child.name) is not None
        log = (self._logs.get(child.name, "") + child.new_log)[-_LOG_CHARACTERS:]
        if ended:
            self._say(_reason(child, log))
            log = ""
        elif child.name == NODE and (advice := explain(child.new_log)) is not None:
            self._say(str(advice))
        self._running[child.name], self._logs[child.name] = child.pid, log
        if child.name == NODE:
            before, self._connection = self._connection, self._connection_of(child, started=started)
            if before != CONNECTED == self._connection:
                self._said.clear()
        elif child.name == RUNNER:
            self._runner = "starting" if child.pid is not None else "not running, it starts again"

    def _connection_of(self, node: ChildState, *, started: bool) -> str:
        if node.pid is None:
            when = f", next try in {node.restart_in_s:.0f} s" if self._console.is_terminal else ""
            return f"{NOT_CONNECTED}{when}"
        trying = started and (self._console.is_terminal or self._connection != NOT_CONNECTED)  # no line per try
        return connection_state(node.new_log) or ("connecting" if trying else self._connection)

    def _say(self, sentence: str) -> None:
        """Print it, unless that was done a short while ago."""
        if time.monotonic() - self._said.get(sentence, -REPEAT_S) >= REPEAT_S:
            self._said[sentence] = time.monotonic()
            self._print(sentence)

    def _print(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)

    def _status(self) -> Mapping[str, Any]:
        try:
            status = json.loads(self._status_path.read_bytes())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}


def _work(status: Mapping[str, Any], runner_pid: int | None, otherwise: str) -> list[str]:
    """Lines about the runner: state, round, step and time left; then the last metrics. A status that an earlier runner
    left behind is not shown."""
    if runner_pid is None or status.get("pid") != runner_pid:
        return [f"runner: {otherwise}"]
    line = f"runner: {status.get('state', 'waiting')}"
    if status.get("state") != "waiting":
        line += f" in round {status.get('round')} of {status.get('run')}"
        if status.get("steps"):
            line += f"  {status.get('phase')}, step {status['step']}/{status['steps']}"
        if status.get("seconds_left") is not None:
            line += f"  {duration(status['seconds_left'])} left"
    metrics = status.get("metrics") or {}
    shown = [f"{name} {metrics[name]:.4g}" for name in _METRICS_SHOWN if name in metrics]
    return [line, *([f"last metrics: {', '.join(shown)}"] if shown else [])]


def _reason(child: ChildState, log: str) -> str:
    """Why a program ended, as far as its log since its start can tell."""
    own, advice = _OWN_ERROR.findall(log), explain(log)
    if child.exit_code is not None and child.exit_code < 0:
        return f"the {child.name} was killed by signal {-child.exit_code} and starts again; see its log"
    if own:
        return f"{child.name}: {own[-1]}"
    if advice is not None:
        return str(advice)
    return f"the {child.name} ended (exit code {child.exit_code}) and starts again; see its log"
