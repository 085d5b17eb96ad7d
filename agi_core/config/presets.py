"""Presets: what a new run starts from where the user has not chosen, beyond the defaults of the schema.

The schema's defaults are the paper's own network, and a stored configuration keeps them as it is. A preset applies to
new runs alone, where its condition holds; whatever the user gives wins. `--help-config` prints this table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agi_core.config.schema import RunConfig


@dataclass(frozen=True)
class Preset:
    """`settings` of new runs for which `applies`; `when` says in words which, `why` what was measured.

    `applies` is asked with what the user and the presets before have chosen, and the schema's defaults elsewhere.
    """

    when: str
    applies: Callable[[RunConfig], bool]
    settings: Mapping[str, Any]
    why: str


PRESETS = (
    Preset(
        "2-D, not the layout brats",
        lambda run: run.model.dims == 2 and run.data.layout != "brats",
        {"model.alignment": "dense"},
        "aligned sources were better at equal steps (docs/results.md); scans of BraTS have been registered",
    ),
    Preset(
        "3-D, not the layout brats",
        lambda run: run.model.dims == 3 and run.data.layout != "brats",
        {"model.alignment": "affine"},
        "as in 2-D; dense alignment has not been measured on volumes",
    ),
    Preset(
        "2-D with model.alignment, without training.adversarial",
        lambda run: run.model.dims == 2 and run.model.alignment != "none" and not run.training.adversarial,
        {"model.neighbours": 1},
        "a slice on either side shows motion through the plane",
    ),
    Preset(
        "2-D, without training.adversarial",
        lambda run: run.model.dims == 2 and not run.training.adversarial,
        {"model.prior": "cubic"},
        "solved in closed form, it is a start that a network takes hundreds of steps to reach",
    ),
    Preset(
        "with model.prior",
        lambda run: run.model.prior != "none",
        {"personal": "head"},
        "scanners differ more than anatomies: one last layer does not serve all sites, and one's own costs no epsilon",
    ),
    Preset(
        "3-D",
        lambda run: run.model.dims == 3,
        {"training.learning_rate": 1e-3},
        "sites drift apart on few patches",
    ),
    Preset(
        "private (privacy.epsilon is set)",
        lambda run: run.privacy.on,
        {"training.local_steps": 4},
        "few steps, each of a large lot: noise does not average out over more",
    ),
    Preset(
        "with federation.server_optimizer=adam",
        lambda run: run.federation.server_optimizer == "adam",
        {"federation.server_learning_rate": 1e-3},
        "it moves every weight by about so much a round; with 1 the model is lost after the first",
    ),
)


def describe_presets() -> str:
    """The table as comments of a YAML file."""
    lines = ["# A new run starts from these where you have not chosen (what is printed above has them applied):"]
    for preset in PRESETS:
        settings = ", ".join(f"{name}={value}" for name, value in preset.settings.items())
        lines.append(f"#   {settings:<32} {preset.when}: {preset.why}")
    return "\n".join(lines)
