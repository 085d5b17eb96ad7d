"""JSON objects of a run folder as frozen dataclasses, and how they are read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin

from agi_core.errors import RunError

Json = dict[str, Any]  # a JSON object as `json` reads and writes it
_AS_JSON: Mapping[Any, type | tuple[type, ...]] = {
    Mapping: dict,
    Sequence: list,
    str: str,
    bool: bool,
    int: int,
    float: (int, float),
}


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
            TypeError: it is no object, a field without a default is missing, or one holds something else than its type
                says.
        """
        if not isinstance(values, dict):
            raise TypeError(f"{values!r} stands where an object is expected")
        return cls(**{f.name: _read(values[f.name], f.type) for f in fields(cls) if f.name in values})

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The object in a file; None where there is no such file yet.

        Raises:
            RunError: the file is damaged.
        """
        values = read_json(path)
        try:
            return None if values is None else cls.from_json(values)
        except TypeError as error:
            raise _damaged(path, error) from None


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _written(item) for name, item in value.items()}
    return value.to_json() if isinstance(value, JsonObject) else value


def _read(value: Any, kind: Any) -> Any:
    """What a field of type `kind` holds; TypeError unless it is of that kind."""
    if isinstance(kind, UnionType):  # the other one is None
        return None if value is None else _read(value, get_args(kind)[0])
    origin = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, JsonObject):
        return origin.from_json(value)
    fits = isinstance(value, _AS_JSON.get(origin, object))
    if not fits:
        raise TypeError(f"{value!r} stands where {origin.__name__} is expected")
    return {name: _read(item, get_args(kind)[1]) for name, item in value.items()} if origin is Mapping else value


def read_json(path: Path) -> Json | None:
    """The JSON object in `path`; None where there is no such file yet.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        values: Json = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if not isinstance(values, dict):
        raise _damaged(path, "it holds no JSON object")
    return values


def _damaged(path: Path, cause: object) -> RunError:
    return RunError(f"{path} is damaged ({cause}); delete it and continue the run with --resume")
