"""Configurations in and out: YAML for people, JSON for the wire.

Order of precedence: the schema's defaults < presets of a new run < `--config FILE` < command-line flags < `key=value`.
What comes out is a validated tree of plain dataclasses.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from yaml import YAMLError

from agi_core.config import structured
from agi_core.config.presets import PRESETS
from agi_core.config.schema import RunConfig, Task
from agi_core.errors import ConfigError
from agi_core.layouts import LAYOUTS

T = TypeVar("T", bound=Task)
_OFFERS = "federation.offers='{SITE: [T1,T2]}'"


def load_config(
    path: Path | None,
    *,
    overrides: Mapping[str, Any],
    assignments: Sequence[str] = (),
    base: RunConfig | None = None,
    defaults: RunConfig | None = None,
) -> RunConfig:
    """The run's configuration from a YAML file, command-line flags (dotted keys; None = not given) and `key=value`
    assignments.

    Each wins over the ones before it; all win over `base`, the settings of an existing run. A new one starts from
    `defaults` (None = `RunConfig()`) and the presets.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, or a value out of range; the message names the key.
    """
    if path is not None and not path.is_file():
        raise ConfigError(f"config file {path} does not exist; give an existing YAML file to --config, or leave it out")
    given = [
        structured.read_file(path, kind="config file") if path else {},
        structured.nested((name, value) for name, value in overrides.items() if value is not None),
        structured.nested(map(_assigned, assignments)),
    ]
    start = [dataclasses.asdict(settings) for settings in (base or defaults,) if settings]
    presets = [] if base else _presets_for(given)
    config = _typed(RunConfig, *start, *presets, *given)
    if not config.scenario:
        config = dataclasses.replace(config, scenario=LAYOUTS[config.data.layout].default_scenario)
    config.validate()
    return dataclasses.replace(config, grid=dataclasses.replace(config.grid, crop=config.crop))


def _assigned(assignment: str) -> tuple[str, Any]:
    """Name and value of `key=value`; the value is YAML."""
    name, equals, value = assignment.partition("=")
    if not equals:
        raise ConfigError(
            f"cannot read {assignment!r}: settings are written key=value, for example training.local_steps=20"
        )
    try:
        return name, structured.parse(value)
    except YAMLError:
        raise ConfigError(
            f"cannot read {assignment}: a bracket or quote is not closed, or a text that needs quotes has none; lists"
            " are written key=[1,2]"
        ) from None


def _presets_for(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings of the presets that apply to what the user and the presets before them have chosen."""
    layers: list[dict[str, Any]] = []
    for preset in PRESETS:
        if preset.applies(_typed(RunConfig, *layers, *given)):
            layers.append(structured.nested(preset.settings.items()))
    return layers


def _typed(kind: type[T], *layers: Mapping[str, Any]) -> T:
    try:
        return structured.typed(kind, *layers)
    except ConfigError as error:
        said = str(error)
        if f"{(setting := said.partition(':')[0])}.".startswith("setting federation.offers."):
            said = f"{setting}: needs a list of modalities for each site, for example {_OFFERS}"
        raise ConfigError(f"{said}; `python simulations/run.py --help-config` lists every setting") from None


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """A validated `Task` or `RunConfig` from plain nested values. Text in it is text: nothing is looked up for it.

    Raises:
        ConfigError: unknown key, wrong type or value out of range.
    """
    config = _typed(kind, values)
    config.validate()
    return config


def to_yaml(config: Task) -> str:
    """The resolved configuration as YAML."""
    return structured.to_yaml(config)


def read_yaml(path: Path) -> RunConfig:
    """The configuration that a run folder holds; a setting that an older release did not have is the schema's default.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if not structured.read_file(path, kind="config file"):
        raise ConfigError(f"{path} is empty; restore it from a backup, or start a new run")
    return load_config(path, overrides={}, base=RunConfig())


def task_json(task: Task) -> str:
    """Canonical JSON of a task: equal tasks give equal text."""
    return json.dumps(dataclasses.asdict(task), sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=64)
def read_task(text: str) -> Task:
    """The task that `task_json` wrote; ConfigError when the text is malformed or a value is out of range."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise TypeError("it is no JSON object")
        return from_dict(Task, values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the request's task cannot be read: {error}") from None


def task_hash(text: str) -> str:
    """Twelve hexadecimal digits that name a task's JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
