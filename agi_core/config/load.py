"""Configurations in and out: OmegaConf loads, merges and checks them; YAML for people, JSON for the wire.

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

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # OmegaConf lets PyYAML's errors through

from agi_core.config.presets import PRESETS
from agi_core.config.schema import RunConfig, Task
from agi_core.errors import ConfigError
from agi_core.layouts import LAYOUTS

T = TypeVar("T", bound=Task)


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
    try:
        settings = OmegaConf.create()
        if path is not None:
            if not path.is_file():
                raise ConfigError(
                    f"config file {path} does not exist; give an existing YAML file to --config, or leave it out"
                )
            settings = _read_settings(path)
        flags = OmegaConf.create()
        for key, value in overrides.items():
            if value is not None:
                OmegaConf.update(flags, key, value)
        for assignment in assignments:
            if "=" not in assignment:
                raise ConfigError(
                    f"cannot read {assignment!r}: settings are written key=value, for example training.local_steps=20"
                )
        given = OmegaConf.merge(settings, flags, OmegaConf.from_dotlist(list(assignments)))
        start = OmegaConf.structured(base or defaults or RunConfig)
        merged = OmegaConf.merge(start, _presets_for(given) if base is None else {}, given)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from None
    except YAMLError:
        raise ConfigError(
            f"cannot read {' '.join(assignments)}: a bracket or quote is not closed; lists are written key=[1,2]"
        ) from None
    config: RunConfig = OmegaConf.to_object(merged)  # type: ignore[assignment]
    if not config.scenario:
        config = dataclasses.replace(config, scenario=LAYOUTS[config.data.layout].default_scenario)
    config.validate()
    return dataclasses.replace(config, grid=dataclasses.replace(config.grid, crop=config.crop))


def _presets_for(given: Container) -> Container:
    """The settings of the presets that apply, as far as the user has not given them."""
    settings = OmegaConf.create()

    def chosen(name: str, default: Any) -> Any:
        return OmegaConf.select(OmegaConf.merge(settings, given), name, default=default)

    for preset in PRESETS:
        if preset.applies(chosen):
            for name, value in preset.settings.items():
                OmegaConf.update(settings, name, value)
    return settings


def _read_settings(path: Path) -> DictConfig:
    try:
        settings = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"cannot read config file {path}: {' '.join(str(error).split())}") from None
    if not isinstance(settings, DictConfig):
        raise ConfigError(f"config file {path} is a list; write one setting per line, for example rounds: 5")
    return settings


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """A validated `Task` or `RunConfig` from plain nested values.

    Raises:
        ConfigError: unknown key, wrong type or value out of range.
    """
    try:
        config: T = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), dict(values)))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from None
    config.validate()
    return config


def to_yaml(config: Task) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read_yaml(path: Path) -> RunConfig:
    """The configuration that a run folder holds."""
    return load_config(path, overrides={})


def task_json(task: Task) -> str:
    """Canonical JSON of a task: equal tasks give equal text."""
    return json.dumps(dataclasses.asdict(task), sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=64)
def read_task(text: str) -> Task:
    """The task that `task_json` wrote; ConfigError when the text is malformed or a value is out of range."""
    try:
        return from_dict(Task, json.loads(text))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the request's task cannot be read: {error}") from None


def task_hash(text: str) -> str:
    """Twelve hexadecimal digits that name a task's JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _explain(error: OmegaConfBaseException) -> str:
    """One sentence from OmegaConf's several lines, with the setting named."""
    key = getattr(error, "full_key", None) or getattr(error, "key", None)
    problem = str(error).splitlines()[0]
    if "is not a TupleConfig" in problem:
        problem = "needs a list, for example [a,b]"
    place = f"setting {key}: " if key else ""
    return f"{place}{problem}; `python simulations/run.py --help-config` lists every setting"
