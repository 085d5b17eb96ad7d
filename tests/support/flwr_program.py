"""A program in the place of `flwr`, for what a SuperLink answers rarely."""

import json
from pathlib import Path
from typing import Any

import pytest

from server import flower_cli
from server.coordinator import CoordinatorDir


class Flwr:
    """It gives the same answers again and again, and notes what it was asked."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.takes(0)

    def takes(self, seconds: float) -> None:
        """For each answer, from now on."""
        program = self._folder / "flwr"
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {self._folder}/asked\nsleep {seconds:g}\ncat "{self._folder}/$1"\n'
        )
        program.chmod(0o755)

    def answers(self, command: str, answer: dict[str, Any]) -> None:
        """To `flwr COMMAND`, from now on."""
        self.prints(command, json.dumps({"success": True, **answer}))

    def fails(self, command: str, message: str) -> None:
        """As `flwr` says it."""
        self.prints(command, json.dumps({"success": False, "error-message": message}))

    def prints(self, command: str, text: str) -> None:
        (self._folder / command).write_text(text)

    def knows(self, status: str, details: str = "") -> None:
        """The run is in this state."""
        self.answers("list", {"runs": [{"status": status, "status-details": details}]})

    def asked(self, command: str) -> list[str]:
        """The first argument of each such call."""
        path = self._folder / "asked"
        words = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
        return [first for name, first, *_ in words if name == command]


def stand_in(coordinator: CoordinatorDir, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Flwr:
    """A coordinator that seems to be up: its `flwr` is a stand-in in the new `folder`."""
    flower_cli.write_connection(coordinator, address="127.0.0.1:1")
    monkeypatch.setattr(flower_cli, "BIN_DIR", folder)
    return Flwr(folder)
