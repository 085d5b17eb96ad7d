"""From a run folder to one zip: a MONAI bundle that any hospital can use, with nothing in it that a site keeps."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save

import agi_core
from agi_core import known_range
from agi_core.errors import RunError
from agi_core.export.archive import DESCRIPTION, ERROR_MODEL, KNOWN_RANGE, STYLES, WEIGHTS, write_archive
from agi_core.export.card import DOUBTS, MUST_NOT, model_card
from agi_core.export.description import Description
from agi_core.export.graphs import graphs_of
from agi_core.models.model_config import name_of
from agi_core.network import Network
from agi_core.run import error_model, run_folder
from agi_core.run.checkpoint import last_round, trained_weights, untested_best
from agi_core.run.event_log import events_of
from agi_core.run.events import ModelRolledBack, made_in
from agi_core.run.json_objects import Json
from agi_core.run.own_weights import read_own_weights, style_path, style_paths

DISTRIBUTION = "agi-fed"
FILES = {"error model": error_model.NAME, "known range": known_range.NAME}  # of a run
MISSING = "the run has none for these weights; python -m agi_core calibrate{} makes it"
BEGINNING = "writing graphs of the network and comparing them with it: some minutes for a 2-D network with alignment"
ROOMS = ("config", "data", "export", "host", "models", "run")
"""Of `agi_core`, what travels in the zip beside the modules of the top: what a prediction needs."""


@dataclass(frozen=True)
class Exported:
    """The checksum of the zip, {format, or what a volume can be doubted by: why the zip does not have it}, those of the
    latter that it has, and the sites whose own last layer is in it."""

    path: Path
    sha256: str
    refused: dict[str, str]
    learnt: list[str]
    styles: list[str]

    def __str__(self) -> str:
        """For the terminal."""
        return "\n".join(
            [
                *(f"no {kind} in it: {reason}" for kind, reason in self.refused.items()),
                *(
                    f"in it too: {kind}, from means over subjects without noise; to keep it, delete {file} of the run"
                    for kind, file in FILES.items()
                    if kind in self.learnt
                ),
                *(
                    f"in it too: the last layer that {site} shares, from its own subjects without noise; to keep it,"
                    f" delete {style_path(Path(), site)} of the run"
                    for site in self.styles
                ),
                f"the model is in {self.path}; read its card, docs/README.md of it, before you give it away",
                f"sha256 {self.sha256}: tell it to the hospital over another channel",
                f"next, at the hospital: python -m agi_core synthesize --model {self.path.name} --help",
            ]
        )


def export(
    run_dir: Path, out_path: Path, *, best: bool = False, on_beginning: Callable[[str], None] = lambda text: None
) -> Exported:
    """Write the zip of a run's last or best model.

    Last layers of single sites are in it where these share them, and else stay where they are.

    Args:
        on_beginning: called with what takes long, before that.

    Raises:
        ConfigError: the run is one over a vocabulary.
        RunError: there is no such run, it has no model yet, or the zip cannot be written.
    """
    if out_path.suffix != ".zip":
        raise RunError(f"{out_path} is no name of a zip; let it end in .zip")
    config, release = run_folder.open_scenario(run_dir), version(DISTRIBUTION)
    network = Network(config)
    network.load(trained_weights(run_dir, best=best))
    description = Description.of(config, release=release)
    on_beginning(BEGINNING)
    graphs, refused = graphs_of(network)
    missing = MISSING.format(" --weights best" if best else "")
    doubts = {} if config.privacy.on else _doubts(run_dir, network)
    for kind, name in DOUBTS.items():
        if name not in doubts:
            refused[kind] = "a private run has none that is noised" if config.privacy.on else missing
    styles, others = _styles(run_dir, network)
    refused |= {f"last layer of {site}": "it belongs to other weights of the run than these" for site in others}
    weights, checkpoint = save(network.weights), io.BytesIO()
    torch.save(network.module.state_dict(), checkpoint)
    title = f"{network.scenario.target} from {', '.join(network.scenario.sources)}"
    card = model_card(
        run_dir,
        config,
        title=title,
        release=release,
        weights=weights,
        round=made_in(events_of(run_dir, ModelRolledBack), round=last_round(run_dir)),
        untested=untested_best(run_dir) if best else None,
        refused=refused,
        styles=[*styles],
    )
    files = {
        "LICENSE": (distribution(DISTRIBUTION).read_text("licenses/LICENSE") or "Apache-2.0").encode(),
        "docs/README.md": card.encode(),
        "configs/metadata.json": _json(_metadata(network, title=title, model=name_of(config.model))),
        "configs/inference.json": _json(_inference()),
        DESCRIPTION: _json(description.to_json()),
        WEIGHTS: weights,
        "models/model.pt": checkpoint.getvalue(),
        **{f"models/model.{kind}": content for kind, content in graphs.items()},
        **doubts,
        **{f"{STYLES}{site}.safetensors": content for site, content in styles.items()},
        **_programs(),
    }
    learnt = [kind for kind, name in DOUBTS.items() if name in doubts]
    return Exported(out_path, write_archive(out_path, files), refused, learnt, [*styles])


def _doubts(run_dir: Path, network: Network) -> dict[str, bytes]:
    """{name in the zip: content} of what the run knows of errors and sources. Of whose scans the errors are stays: not
    even the fingerprints travel."""
    found = {}
    with contextlib.suppress(RunError):  # there is none of these weights
        errors = error_model.read_error_model(run_dir / error_model.NAME, network=network)
        without = dataclasses.replace(errors, calibrated_on=())
        found[ERROR_MODEL] = error_model.content_of(without, network=network)
    with contextlib.suppress(RunError):  # of other sources, or damaged
        if (known := known_range.read_known_range(run_dir / known_range.NAME, network=network)) is not None:
            found[KNOWN_RANGE] = _json(known.to_json())
    return found


def _styles(run_dir: Path, network: Network) -> tuple[dict[str, bytes], list[str]]:
    """{site: the own weights that it shares} of this network, and the sites that share those of another one."""
    styles, others = dict[str, bytes](), list[str]()
    for site, path in style_paths(run_dir).items():
        try:
            read_own_weights(path, network=network)
            styles[site] = path.read_bytes()
        except RunError:  # of the best model's, where the last one is exported
            others.append(site)
    return styles, others


def _json(value: Json) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _programs() -> dict[str, bytes]:
    """{name in the zip: module}: the same preparation of scans, in any environment."""
    root = Path(agi_core.__file__).parent
    paths = [*root.glob("*.py"), *(path for room in ROOMS for path in (root / room).rglob("*.py"))]
    unused = (root / "data" / "phantom", root / "__main__.py")
    return {
        f"agi_core/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(paths)
        if not any(path.is_relative_to(other) for other in unused)
    }


def _metadata(network: Network, *, title: str, model: str) -> Json:
    """`configs/metadata.json` of MONAI's schema."""
    scenario, n = network.scenario, network.multiple
    packages = {name: version(name) for name in ("nibabel", "scipy", "safetensors")}
    image = {"type": "image", "format": "magnitude", "modality": "MR", "dtype": "float32", "value_range": [0, 1]}
    space = [f"{n}*n"] * 2
    depth = ["n"] if network.volumetric else [2 * network.neighbours + 1] * bool(network.neighbours)
    patch: Json = {**image, "is_patch_data": network.volumetric}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": version(DISTRIBUTION),
        "changelog": {version(DISTRIBUTION): "exported from a run"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": packages,
        "name": title,
        "task": f"synthesis of {scenario.target}",
        "description": f"{model}: makes {title}. {MUST_NOT}",
        "authors": "the hospitals named in docs/README.md",
        "copyright": "see docs/README.md",
        "intended_use": f"research. {MUST_NOT}",
        "network_data_format": {
            "inputs": {
                "image": {
                    **patch,
                    "num_channels": len(scenario.sources),
                    "spatial_shape": [*depth, *space],
                    "channel_def": {str(index): source for index, source in enumerate(scenario.sources)},
                }
            },
            "outputs": {
                "pred": {
                    **patch,
                    "num_channels": 1,
                    "spatial_shape": [*depth[: network.volumetric], *space],
                    "channel_def": {"0": scenario.target},
                }
            },
        },
    }


def _inference() -> dict[str, Any]:
    """`configs/inference.json`. Preparation, windows and writing are one function, the one of the command line: scans
    go back to a stored orientation, which a chain of transforms would have to be told of."""
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "./dataset",
        "output_dir": "./output",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "agi_core.export.bundle.open_network",
            "bundle_root": "@bundle_root",
            "device": "@device",
        },
        "evaluator": {
            "_target_": "agi_core.export.bundle.FolderEvaluator",
            "network": "@network_def",
            "bundle_root": "@bundle_root",
            "dataset_dir": "@dataset_dir",
            "output_dir": "@output_dir",
        },
        "run": ["$@evaluator.run()"],
    }
