"""Flower's codes, HTTP states and TLS texts as one sentence and a next step for a hospital engineer.

The texts are in `flower_errors.toml`, and their test holds lines that were seen in logs.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Advice:
    """What is wrong, and what to do next."""

    sentence: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.next_step}"


_PATTERNS = tuple(
    (re.compile(known.pop("pattern"), re.IGNORECASE), Advice(**known))
    for known in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["known"]
)

CONNECTED, WAITING = "connected", "cannot reach the coordinator, trying again"
_STATES = re.compile(
    r"(?P<connected>SuperNode ID: \d+|Connection successful|(Received|Sent) successfully)|Connection attempt failed"
)


def explain(text: str) -> Advice | None:
    """Advice for the most particular known error in a piece of log or an exception's text."""
    return next((advice for pattern, advice in _PATTERNS if pattern.search(text)), None)


def connection_state(text: str) -> str | None:
    """`CONNECTED` or `WAITING`, by the last word that the node's log says about it; None when it says nothing."""
    state = None
    for match in _STATES.finditer(text):
        state = CONNECTED if match["connected"] else WAITING
    return state
