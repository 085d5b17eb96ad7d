"""Presets: what a new run starts from where the user has not chosen, beyond the defaults of the schema.

The schema's defaults are the paper's own network, and a stored configuration keeps them as it is. A preset applies to
new runs alone, where its condition holds; whatever the user gives wins. `--help-config` prints this table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Setting = Callable[[str, Any], Any]
"""(dotted name, default) -> the value that the user or an earlier preset has chosen, else the default."""


@dataclass(frozen=True)
class Preset:
    """`settings` of new runs for which `applies`; `when` says in words which, `why` what was measured."""

    when: str
    applies: Callable[[Setting], bool]
    settings: Mapping[str, Any]
    why: str


def _dims(chosen: Setting) -> int:
    dims: int = chosen("model.dims", 2)
    return dims


PRESETS = (
    Preset(
        "2-D, not the layout brats",
        lambda chosen: _dims(chosen) == 2 and chosen("data.layout", "ixi") != "brats",
        {"model.alignment": "dense"},
        "aligned sources were better at equal steps (docs/results.md); scans of BraTS have been registered",
    ),
    Preset(
        "3-D, not the layout brats",
        lambda chosen: _dims(chosen) == 3 and chosen("data.layout", "ixi") != "brats",
        {"model.alignment": "affine"},
        "as in 2-D; dense alignment has not been measured on volumes",
    ),
    Preset(
        "2-D with model.alignment, without training.adversarial",
        lambda chosen: (
            _dims(chosen) == 2
            and chosen("model.alignment", "none") != "none"
            and not chosen("training.adversarial", False)
        ),
        {"model.neighbours": 1},
        "a slice on either side shows motion through the plane",
    ),
    Preset(
        "3-D",
        lambda chosen: _dims(chosen) == 3,
        {"training.learning_rate": 1e-3},
        "sites drift apart on few patches",
    ),
    Preset(
        "private (privacy.epsilon is set)",
        lambda chosen: chosen("privacy.epsilon", None) is not None,
        {"training.local_steps": 4},
        "few steps, each of a large lot: noise does not average out over more",
    ),
)


def describe_presets() -> str:
    """The table as comments of a YAML file."""
    lines = ["# A new run starts from these where you have not chosen (what is printed above has them applied):"]
    for preset in PRESETS:
        settings = ", ".join(f"{name}={value}" for name, value in preset.settings.items())
        lines.append(f"#   {settings:<32} {preset.when}: {preset.why}")
    return "\n".join(lines)
