"""What the misalignment benchmark compares: its settings, and the moves that it tests."""

from dataclasses import dataclass
from pathlib import Path

from agi_core.config.load import load_config
from agi_core.config.schema import MisalignKind, RunConfig
from agi_core.layouts import LayoutName
from benchmarks.misalignment_variants import VARIANTS

SETTINGS = ["rounds=1", "training.batch_size=8", "grid.crop=[128,128]", "model.prior=none", "personal=none"]
MOVED_IN_TRAINING = ["training.misalign.kind=translation", "training.misalign.size=6"]


@dataclass(frozen=True)
class Test:
    """How the source is moved in testing; see `agi_core.data.misalignment.draw`."""

    kind: MisalignKind
    size: float
    up_to: bool = False

    def __str__(self) -> str:
        unit = {"translation": "px", "rotation": "deg", "scale": "", "elastic": "mm", "rigid": "mm/deg"}[self.kind]
        return f"{self.kind}{' up to' if self.up_to else ''} {self.size:g} {unit}".strip()


MAIN = Test("translation", 6, up_to=True)
TRANSLATIONS = [Test("translation", pixels) for pixels in (0, 1, 2, 4, 8, 16)]
OTHERS = [Test("rotation", 5), Test("scale", 0.05), Test("scale", 0.1), Test("elastic", 3), Test("rigid", 3)]
TESTS = [MAIN, *TRANSLATIONS, *OTHERS]


@dataclass(frozen=True)
class Setup:
    """What all variants share; `moved` and `reference` are sources."""

    data_dir: Path
    tested_dir: Path | None
    registered_dir: Path | None
    layout: LayoutName
    scenario: str
    reference: str
    moved: str
    register_target: bool
    steps: int
    out_dir: Path
    settings: tuple[str, ...]


def configuration(setup: Setup, name: str, seed: int) -> RunConfig:
    variant = VARIANTS[name]
    moved = [f"training.misalign.source={setup.moved}", *MOVED_IN_TRAINING] if variant.moved else []
    shared = [f"scenario='{setup.scenario}'", f"reference={setup.reference}", f"training.local_steps={setup.steps}"]
    return load_config(
        None,
        overrides={"seed": seed, "data.layout": setup.layout},
        assignments=[*SETTINGS, *shared, *moved, *variant.settings, *setup.settings],
    )
