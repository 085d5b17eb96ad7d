"""Any-to-any: a vocabulary of modalities, written `T1,T2,PD:any`, and its cells, each a scenario of its own.

A cell makes one target from one subset of the others. The folder of a run over a vocabulary holds an ordinary run for
each cell that some site could train, in `cells/`, and `blends.json` for those that none could:

    RUN/config.yaml            scenario: T1,T2,PD:any
    RUN/cells/T2-to-PD/        a whole run of `T2:PD`: its configuration, checkpoints, summary and report
    RUN/blends.json            {"T1,T2:PD": {"T1:PD": 0.25, "T2:PD": 0.75}}
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from agi_core.errors import ConfigError
from agi_core.layouts import LAYOUTS, telling
from agi_core.scenario import Scenario, modality_parts, parse_scenario

ANY = "any"
BLENDS = "blends.json"
CELLS = "cells"
_MOST = 6  # modalities: 6 x 31 cells


@dataclass(frozen=True)
class Vocabulary:
    """The modalities that a run is about, in the order in which its networks see them."""

    modalities: tuple[str, ...]

    @property
    def cells(self) -> tuple[Scenario, ...]:
        """Every non-empty subset to every other modality: by target, the largest subset first."""
        return tuple(
            Scenario(sources, target)
            for target in self.modalities
            for count in range(len(self.modalities) - 1, 0, -1)
            for sources in combinations([name for name in self.modalities if name != target], count)
        )

    def cell(self, sources: frozenset[str], target: str) -> Scenario:
        """The cell of these sources, in the vocabulary's order."""
        return Scenario(tuple(name for name in self.modalities if name in sources), target)

    def __str__(self) -> str:
        return f"{','.join(self.modalities)}:{ANY}"


def is_vocabulary(text: str) -> bool:
    """Whether the text is a vocabulary, and no single scenario."""
    return text.partition(":")[2].strip() == ANY


def parse_vocabulary(text: str) -> Vocabulary:
    """Read `T1,T2,PD:any`; `str()` of the result gives it back without blanks.

    Raises:
        ConfigError: the text is malformed, names a modality twice, in one way or as acquired in another, or has fewer
            than two or more than six.
    """
    names = parse_scenario(text).sources
    if not 2 <= len(names) <= _MOST:
        raise ConfigError(
            f"scenario '{text}': a vocabulary has two to {_MOST} modalities, not {len(names)}; one is T1,T2,PD:any"
        )
    for one, other in combinations(names, 2):
        if _shown(one) == _shown(other):
            raise ConfigError(
                f"scenario '{text}': {one} and {other} differ only in how they were acquired, so a cell without one of"
                " them would take its scans for the other; keep one"
            )
    return Vocabulary(names)


def _shown(modality: str) -> tuple[str, frozenset[str]]:
    """A modality without the entities of BIDS that do not change what a scan shows."""
    name, entities = modality_parts(modality)
    return name, frozenset(telling(entities, neutral=LAYOUTS["bids"].neutral))


def wanted(scenario: str) -> tuple[tuple[str, ...], int]:
    """The modalities that subjects are looked up for, and how many of them a subject must have: of a scenario all, of a
    vocabulary one to make another from.

    Raises:
        ConfigError: the text is malformed.
    """
    if is_vocabulary(scenario):
        return parse_vocabulary(scenario).modalities, 2
    modalities = parse_scenario(scenario).modalities
    return modalities, len(modalities)


def folder_of(run_dir: Path, cell: Scenario) -> Path:
    """Where the run of a cell is in the folder of a run over a vocabulary."""
    return run_dir / CELLS / f"{'+'.join(cell.sources)}-to-{cell.target}"


def whole_of(run_dir: Path) -> Path:
    """The folder of the run that a cell's folder is a part of; that of any other run is itself."""
    return run_dir.parent.parent if run_dir.parent.name == CELLS else run_dir


def name_of(run_dir: Path) -> str:
    """What a run is called: as its folder, and a cell `RUN/cells/T2-to-PD`."""
    return "/".join(run_dir.parts[-3:]) if run_dir.parent.name == CELLS else run_dir.name
