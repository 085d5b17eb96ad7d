"""Scenario: which modalities are given and which one is made, written `T1,T2:PD`.

In BIDS a modality may be chosen by the entities of its file names: `T1w[ce-gadolinium],T2w[acq-tse_run-1]:FLAIR`.
"""

import re
from dataclasses import dataclass

from agi_core.errors import ConfigError

_ENTITIES = r"[a-z]+-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*"
_MODALITY = re.compile(rf"([A-Za-z0-9]+)(?:\[({_ENTITIES})\])?")


@dataclass(frozen=True)
class Scenario:
    """Source modalities in the order in which the model sees them, and the target modality."""

    sources: tuple[str, ...]
    target: str

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities a session must have: the sources, then the target."""
        return (*self.sources, self.target)

    def reference(self, chosen: str | None) -> str:
        """The source in the target's pose: the chosen one, or the last where nobody has chosen.

        The last, because the usual scenarios name the source that is acquired with the target last (T2 before PD).
        """
        return self.sources[-1] if chosen is None else chosen

    def __str__(self) -> str:
        return f"{','.join(self.sources)}:{self.target}"


def parse_scenario(text: str) -> Scenario:
    """Read `T1,T2:PD`; `str()` of the result gives it back without blanks.

    Raises:
        ConfigError: the text is malformed, names a modality twice, or has the target among its sources.
    """
    sources, _, target = text.partition(":")
    scenario = Scenario(tuple(name.strip() for name in sources.split(",")), target.strip())
    example = "write sources, a colon and one target, such as T1,T2:PD"
    if scenario.target.lower() == "any":  # a vocabulary (`agi_core.cells`)
        example = "write modalities, a colon and any, such as T1,T2,PD:any"
        if scenario.target != "any":
            raise ConfigError(f"scenario '{text}': '{scenario.target}' is written any; {example}")
    for name in scenario.modalities:
        if not _MODALITY.fullmatch(name):
            raise ConfigError(f"scenario '{text}': '{name}' is not the name of a modality; {example}")
    if scenario.target in scenario.sources:
        raise ConfigError(f"scenario '{text}': the target {scenario.target} is among its sources; {example}")
    if len(set(scenario.sources)) < len(scenario.sources):
        raise ConfigError(f"scenario '{text}' names a source twice; {example}")
    return scenario


def modality_parts(modality: str) -> tuple[str, frozenset[str]]:
    """The name and the chosen entities: of `T1w[ce-gadolinium]` T1w and {ce-gadolinium}. Raises ValueError."""
    match = _MODALITY.fullmatch(modality)
    if match is None:
        raise ValueError(f"{modality} is not the name of a modality")
    return match[1], frozenset(match[2].split("_") if match[2] else ())
