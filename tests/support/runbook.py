"""The runbooks' commands, as a person would copy them."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
RUNBOOKS = ("coordinator.md", "hospital.md")
_BLOCK = re.compile(
    r"<!-- (?P<kind>runs|runs in the background|by hand): (?P<name>[^>]+?) -->\n```bash\n(?P<text>.*?)```\n", re.S
)


def commands(runbook: str) -> dict[str, str]:
    """{name: text} of the blocks that a test runs."""
    found = _BLOCK.finditer((DOCS / runbook).read_text())
    return {block["name"]: block["text"] for block in found if block["kind"] != "by hand"}


def blocks(runbook: str) -> list[str]:
    """The texts of all marked blocks, those that are done by hand too."""
    return [block["text"] for block in _BLOCK.finditer((DOCS / runbook).read_text())]
