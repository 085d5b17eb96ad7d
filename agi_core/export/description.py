"""What a program must know of an exported model besides its weights: which network, of what, on which grid."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from agi_core.config.schema import GridConfig, RunConfig, Task
from agi_core.errors import ConfigError, RunError
from agi_core.models.model_config import ModelConfig, spatial_multiple
from agi_core.run.json_objects import Json, JsonObject
from agi_core.scenario import Scenario, parse_scenario


@dataclass(frozen=True, kw_only=True)
class Description(JsonObject):
    """`release` is the one that wrote the zip, `model` the fields of `ModelConfig`, `register` whether sources are laid
    on the reference first; the others are those of `Task`. It names no site, no subject and no folder."""

    release: str
    scenario: str
    reference: str | None
    register: bool
    spacing_mm: Sequence[float] | None
    crop: Sequence[int]
    model: Mapping[str, Any]

    @classmethod
    def of(cls, config: RunConfig, *, release: str) -> Self:
        """What is true of a run."""
        return cls(
            release=release,
            scenario=config.scenario,
            reference=config.reference,
            register=config.data.register == "rigid",
            spacing_mm=None if config.spacing_mm is None else [*config.spacing_mm],
            crop=[*config.crop],
            model={**dataclasses.asdict(config.model), "widths": [*config.model.widths]},
        )

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """Raises RunError where this is no description of a model, or of one that this release cannot build."""
        try:
            description = super().from_json(values)
            description.task.validate()
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"the description of the model cannot be used ({error})") from None
        return description

    @property
    def task(self) -> Task:
        """As much of the run's task as its network needs."""
        spacing_mm = None if self.spacing_mm is None else tuple(self.spacing_mm)
        model = ModelConfig(**{**self.model, "widths": tuple(self.model["widths"])})
        grid = GridConfig(spacing_mm, tuple(self.crop))
        return Task(scenario=self.scenario, reference=self.reference, grid=grid, model=model)

    @property
    def sources_and_target(self) -> Scenario:
        return parse_scenario(self.scenario)

    @property
    def multiple(self) -> int:
        """What rows and columns of a slice are padded to."""
        return spatial_multiple(self.task.model)
