"""What is shown for what the supervisor and the runner's status file tell."""

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from client.process.child import ChildState
from client.process.terminal import Terminal

FIRST_ERROR = "ERROR :     Exit Code: 305\nFailed to initialize\n[code: 2004] Failed to activate SuperNode.\n"


class Shown:
    """A terminal, or a pipe, and what was written to it."""

    def __init__(self, folder: Path, *, terminal: bool = False) -> None:
        self.status_path, self.out = folder / "status.json", io.StringIO()
        console = Console(file=self.out, force_terminal=terminal, soft_wrap=True, highlight=False, width=120)
        self.terminal = Terminal(console, site="A", address="agi.example:443", status_path=self.status_path)

    def hear(
        self,
        *,
        node: int | None = 11,
        node_log: str = "",
        runner: int | None = 12,
        runner_log: str = "",
        runner_code: int = -9,
    ) -> None:
        node_code, runner_code_now = (None if node else 1), (None if runner else runner_code)
        states = (
            ChildState(name="node", pid=node, exit_code=node_code, restart_in_s=3.0, new_log=node_log),
            ChildState(name="runner", pid=runner, exit_code=runner_code_now, restart_in_s=1.0, new_log=runner_log),
        )
        self.terminal.hear(states)

    def status(self, **values: Any) -> None:
        self.status_path.write_text(json.dumps({"pid": 12, "state": "waiting", "metrics": {}} | values))

    def lines(self) -> list[str]:
        return [line[9:] for line in self.out.getvalue().splitlines()]  # without the time


def test_in_a_pipe_a_line_per_change_and_not_per_step(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.hear(node_log="INFO :      Starting Flower SuperNode\n")
    shown.status()
    shown.hear(node_log="INFO :      SuperNode ID: 123\n")
    for step in range(1, 30):
        shown.status(
            state="training", run="first-ab12", round=3, phase="round 3/8", step=step, steps=40, seconds_left=80.2
        )
        shown.hear()
    shown.status(round=3)
    shown.hear()
    assert shown.lines() == [
        "A -> agi.example:443: connecting; runner: starting",
        "A -> agi.example:443: connected; runner: waiting",
        "A -> agi.example:443: connected; runner: training in round 3 of first-ab12",
        "A -> agi.example:443: connected; runner: waiting",
    ]


def test_on_a_terminal_step_time_left_and_metrics_are_redrawn(tmp_path: Path) -> None:
    shown = Shown(tmp_path, terminal=True)
    shown.status(
        state="training", run="first-ab12", round=3, phase="round 3/8", step=12, steps=40, seconds_left=80.2,
        metrics={"train_loss": 0.0512345, "validation_psnr_db": 24.1234},
    )  # fmt: skip
    with shown.terminal.showing():
        shown.hear()
        shown.hear(node_log="INFO :      SuperNode ID: 123\n")
    out = shown.out.getvalue()
    assert "A -> agi.example:443: connected" in out
    assert "training in round 3 of first-ab12  round 3/8, step 12/40  1 min 20 s left" in out
    assert "last metrics: train_loss 0.05123, validation_psnr_db 24.12" in out
    assert "\x1b[1A" in out  # the cursor goes back up


def test_a_known_error_is_said_once_until_the_node_connects(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    for _ in range(3):
        shown.hear(node_log="INFO :      Starting Flower SuperNode\n")
        shown.hear(node=None, node_log=FIRST_ERROR)
        shown.hear(node=None)
    assert sum("(2004)" in line for line in shown.lines()) == 1
    assert sum(": not connected;" in line for line in shown.lines()) == 1  # and no line per try
    shown.hear(node_log="INFO :      SuperNode ID: 123\n")
    shown.hear(node=None, node_log=FIRST_ERROR)
    assert sum("(2004)" in line for line in shown.lines()) == 2


def test_an_earlier_lifes_log_explains_nothing(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.hear(node_log="WARNING :   Connection attempt failed, retrying in 3.88 seconds\n")
    shown.hear(node=None)
    shown.hear()
    shown.hear(node=None, node_log="something new\n")
    assert [line for line in shown.lines() if not line.startswith("A ->")] == [
        "The coordinator cannot be reached; it is tried again by itself. If it lasts: python -m client --site NAME"
        " --check tells name, port, proxy and TLS apart.",
        "the node ended (exit code 1) and starts again; see its log",
    ]


def test_the_runners_own_sentence_and_its_violent_end(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.hear()
    shown.hear(runner=None, runner_log="error: The configuration was refused. --check\n", runner_code=1)
    shown.hear()
    shown.hear(runner=None)
    for _ in range(3):  # connected all the while
        shown.hear(node_log="INFO :      SuperNode ID: 123\n")
        shown.hear(runner=None)
    lines = shown.lines()
    assert len([line for line in lines if "killed" in line]) == 2
    assert "runner: The configuration was refused. --check" in lines
    assert "the runner was killed by signal 9 and starts again; see its log" in lines


def test_a_status_of_an_earlier_runner_or_a_broken_one_is_not_believed(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.status(pid=99, state="training", round=7)
    shown.hear()
    shown.status_path.write_text("{")
    shown.hear()
    assert shown.lines() == ["A -> agi.example:443: connecting; runner: starting"]


def test_a_refusal_is_printed_once_with_its_cause_and_without_escape_codes(tmp_path: Path) -> None:
    shown = Shown(tmp_path)
    shown.status(run="first-ab12", round=3, refused="rounds=900 is above [max] 500\x1b[2J")
    for _ in range(3):
        shown.hear()
    assert [line for line in shown.lines() if "refused" in line] == [
        "refused first-ab12: rounds=900 is above [max] 500[2J"
    ]
