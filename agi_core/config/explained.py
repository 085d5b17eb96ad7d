"""All settings with their defaults as YAML, each section below the words of its class. It is itself a file of
settings."""

import dataclasses
import inspect
import re
from typing import Any

from agi_core.config.load import to_yaml
from agi_core.config.schema import RunConfig, Task


def explained(config: RunConfig) -> str:
    """The text; comments stand where a section begins."""
    lines = [*_comment(RunConfig), "#", *_comment(Task), ""]
    path: list[Any] = [config]  # the settings whose lines these are, from the outermost on
    for line in to_yaml(config).splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.lstrip().startswith("- "):
            del path[indent // 2 + 1 :]
        name = re.fullmatch(r" *(\w+):", line)
        section = getattr(path[-1], name[1], None) if name else None
        if section is not None and dataclasses.is_dataclass(section):
            lines += ["", *(f"{' ' * indent}{comment}" for comment in _comment(type(section)))]
            path.append(section)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _comment(kind: type) -> list[str]:
    return [f"# {line}".rstrip() for line in inspect.cleandoc(kind.__doc__ or "").splitlines()]
