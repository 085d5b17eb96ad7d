"""JSON objects of a run folder as frozen dataclasses, and how they are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin

from agi_core.errors import RunError

Json = dict[str, Any]  # a JSON object as `json` reads and writes it


@dataclass(frozen=True)
class JsonObject:
    """A frozen dataclass whose fields are the object's. As its type says, a field may be such an object itself, perhaps
    None, or a mapping to such objects."""

    def to_json(self) -> Json:
        """The object as `json` writes it."""
        return {name: _written(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """The object again. Fields that another release has added are left out.

        Raises:
            TypeError, KeyError: a field without a default is missing.
        """
        return cls(**{f.name: _read(values[f.name], f.type) for f in fields(cls) if f.name in values})


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _written(item) for name, item in value.items()}
    return value.to_json() if isinstance(value, JsonObject) else value


def _read(value: Any, kind: Any) -> Any:
    """What a field of type `kind` holds."""
    if get_origin(kind) is Mapping and isinstance(value, dict):
        return {name: _read(item, get_args(kind)[1]) for name, item in value.items()}
    if isinstance(kind, UnionType):
        kind = get_args(kind)[0]  # the other one is None
    nested = value is not None and isinstance(kind, type) and issubclass(kind, JsonObject)
    return kind.from_json(value) if nested else value


def read_json(path: Path) -> Json | None:
    """The JSON object in `path`; None where there is no such file yet.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        values: Json = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and continue the run with --resume") from None
    return values
