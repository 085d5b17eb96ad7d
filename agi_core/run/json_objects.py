"""JSON objects of a run folder as frozen dataclasses, and how they are read."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from agi_core.errors import RunError

Json = dict[str, Any]  # a JSON object as `json` reads and writes it


@dataclass(frozen=True)
class JsonObject:
    """A frozen dataclass whose fields are the object's. A subclass with nested objects overrides both methods."""

    def to_json(self) -> Json:
        """The object as `json` writes it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """The object again. Fields that another release has added are left out.

        Raises:
            TypeError, KeyError: a field without a default is missing.
        """
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


def read_json(path: Path) -> Json | None:
    """The JSON object in `path`; None where there is no such file yet.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        values: Json = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and continue the run with --resume") from None
    return values
