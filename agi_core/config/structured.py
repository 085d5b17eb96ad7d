"""Settings as plain text, and as the dataclass that they are for.

YAML tells text, lists, sections and null apart. What `001`, `no` or `1e3` means is for the setting's type to say, so a
site or a folder of that name keeps it. OmegaConf checks names and types. Its own language is off: `${...}` and `???`
are text like any other, whoever wrote them.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING as MISSING
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agi_core.errors import ConfigError

T = TypeVar("T")
_MERGE_ERRORS = (OmegaConfBaseException, ValueError, TypeError)
_NULL = "tag:yaml.org,2002:null"
_MARK = "\0"  # it breaks up what OmegaConf would interpret; no path, no argument and no YAML file can hold it


class _Text(yaml.SafeLoader):
    """YAML whose scalars are text, or null."""

    yaml_implicit_resolvers = {  # noqa: RUF012  as in the base class
        first: [(tag, form) for tag, form in resolvers if tag == _NULL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in names[:number]:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is set twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


class _Plain(yaml.SafeDumper):
    """YAML whose text comes back: line breaks of any kind (U+0085, U+2028) are escaped, which PyYAML does not do."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Plain.add_representer(str, _Plain.represent_str)


def read_file(path: Path, *, kind: str) -> dict[str, Any]:
    """The settings in a YAML file, which is UTF-8. `kind` is what the file is called in messages.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    try:
        settings = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {kind} {path}: {' '.join(str(error).split())}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{kind} {path} is a list or one text; write one setting per line, for example device: cpu")
    return settings


def parse(text: str) -> Any:
    """What YAML text holds: None, text, a list or a dict of these. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Text)  # noqa: S506  a SafeLoader


def nested(settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Settings by their dotted names as sections: {"model": {"dims": 3}} of ("model.dims", 3); the last one wins."""
    tree: dict[str, Any] = {}
    for dotted, value in settings:
        *sections, name = dotted.split(".")
        place = tree
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[name] = value
    return tree


def flat(sections: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of sections by their dotted names, as `nested` takes them."""
    for name, value in sections.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def typed(kind: type[T], *layers: Mapping[str, Any]) -> T:
    """An object of the dataclass `kind` from nested settings, each layer over the ones before it.

    Raises:
        ConfigError: a name is unknown, a value has another type, or one that is needed is missing.
    """
    try:
        return _merged(kind, layers)
    except _MERGE_ERRORS as error:
        raise ConfigError(_explain(error) or _first_misfit(kind, layers)) from None


def _merged(kind: type[T], layers: Iterable[Mapping[str, Any]]) -> T:
    merged = OmegaConf.merge(_schema(kind), *map(_marked, layers))  # type: ignore[arg-type]
    value: T = _unmarked(OmegaConf.to_object(merged))
    return value


@cache
def _schema(kind: type) -> DictConfig:
    """Names and types; `merge` copies it."""
    schema: DictConfig = OmegaConf.structured(kind)
    return schema


def to_yaml(settings: Any) -> str:
    """A dataclass as YAML that `parse` reads again."""
    plain = dataclasses.asdict(settings)
    return yaml.dump(plain, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=math.inf)


def quoted(text: str) -> str:
    """The text as a YAML string on one line, whatever is in it."""
    line: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return line.removesuffix("\n")


def _marked(value: Any) -> Any:
    match value:
        case str() if _MARK in value:
            raise ConfigError("a setting holds a NUL character; remove it")
        case str():
            return value + _MARK if value == MISSING else value.replace("${", f"${_MARK}{{")
        case Mapping():
            return {name: _marked(item) for name, item in value.items()}
        case list() | tuple():
            return [_marked(item) for item in value]
    return value


def _unmarked(value: Any) -> Any:
    match value:
        case str():
            return value.replace(_MARK, "")
        case dict():
            return {name: _unmarked(item) for name, item in value.items()}
        case list() | tuple():
            return type(value)(map(_unmarked, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _unmarked(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def _explain(error: Exception) -> str:
    """One sentence from OmegaConf's several lines, with the setting named; "" where OmegaConf does not say which."""
    key = getattr(error, "full_key", None) or getattr(error, "key", None)
    problem = str(error).splitlines()[0].replace(_MARK, "")
    if "is not a TupleConfig" in problem or "is not a ListConfig" in problem:
        problem = "needs a list, for example [a,b]"
    return f"setting {key}: {problem}" if isinstance(key, str) and "not an int" not in problem else ""


def _first_misfit(kind: type, layers: Iterable[Mapping[str, Any]]) -> str:
    """The same of the first setting that cannot be merged by itself."""
    for name, value in (setting for layer in layers for setting in flat(layer)):
        try:
            OmegaConf.merge(_schema(kind), _marked(nested([(name, value)])))
        except _MERGE_ERRORS as error:
            if "is not a subclass of" in str(error):
                return f"setting {name}: {value} stands where settings of its own are expected, such as {name}.KEY"
            return f"setting {name}: {value} is of another type"
    return "some settings do not fit each other"
