"""Example slices: what the report shows of the final test, kept in the run folder as `examples.safetensors`.

Images only: no subject id, no file name, no header leaves the scans with them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors

Image = NDArray[np.floating]
Window = tuple[slice, slice]  # rows and columns

_FILE_NAME = "examples.safetensors"


@dataclass(frozen=True)
class MovedSource:
    """A source as the model's alignment brings it onto the reference: `aligned(p) = source(p + offset(p))`.

    Attributes:
        aligned: (H, W).
        offset_mm: (2, H, W) towards (anterior, right); (3, H, W) towards (superior, anterior, right) where the model
            sees through the plane.
        true_offset_mm: (3, H, W), where it is known.
    """

    aligned: Image
    offset_mm: Image
    true_offset_mm: Image | None = None


@dataclass(frozen=True)
class Example:
    """One axial slice of a test subject.

    All arrays are (H, W), axis 0 towards anterior, axis 1 towards the patient's right; intensities in [0, 1].
    The title is shown in the report, which may be shared: "Guys, test subject 1", never a subject id. `moved`,
    `attention` and `through_plane` are for the report's diagnostics and empty where there is nothing to show.
    """

    site: str
    unseen: bool
    title: str
    sources: Mapping[str, Image]  # {modality: image}, in the scenario's order
    target: Image
    prediction: Image
    foreground: NDArray[np.bool_]
    spacing_mm: tuple[float, float] = (1.0, 1.0)  # of axis 0 and axis 1: the shape in which a pixel is shown
    moved: Mapping[str, MovedSource] = field(default_factory=dict)  # {modality: ...}, all sources but the reference
    attention: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # {layer: {group: mean over the scan}}
    through_plane: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """{plane: SSIM between neighbouring slices of the whole (target, prediction)}"""


def head_window(example: Example, *, margin: int = 8) -> Window:
    """The box around the foreground with a margin in pixels; the whole slice where there is none."""
    if not example.foreground.any():
        return slice(None), slice(None)
    positions = np.argwhere(example.foreground)
    (top, left), (bottom, right) = positions.min(axis=0), positions.max(axis=0)
    return slice(max(top - margin, 0), bottom + margin + 1), slice(max(left - margin, 0), right + margin + 1)


def write_examples(run_dir: Path, examples: Sequence[Example]) -> None:
    """Replace the run's example slices. Images are kept as float16: intensities to 0.0005, 10 mm to 0.004 mm.

    Raises:
        RunError: the folder cannot be written.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    notes = []
    for i, example in enumerate(examples):
        images = {f"source {name}": image for name, image in example.sources.items()}
        images |= {"target": example.target, "prediction": example.prediction}
        for name, moved in example.moved.items():
            images |= {f"aligned {name}": moved.aligned, f"offset {name}": moved.offset_mm}
            if moved.true_offset_mm is not None:
                images[f"true offset {name}"] = moved.true_offset_mm
        tensors |= {f"{i} {name}": np.ascontiguousarray(image, dtype=np.float16) for name, image in images.items()}
        tensors[f"{i} foreground"] = np.ascontiguousarray(example.foreground, dtype=np.uint8)
        notes.append(
            {
                "site": example.site,
                "unseen": example.unseen,
                "title": example.title,
                "sources": list(example.sources),
                "spacing_mm": list(example.spacing_mm),
                "moved": list(example.moved),
                "attention": {layer: dict(groups) for layer, groups in example.attention.items()},
                "through_plane": dict(example.through_plane),
            }
        )
    atomic.write_bytes(run_dir / _FILE_NAME, save(tensors, metadata={"examples": json.dumps(notes)}))


def read_examples(run_dir: Path) -> list[Example]:
    """The run's example slices in the order of writing, as float32; none where the run has no such file yet.

    Raises:
        RunError: the file is damaged.
    """
    path = run_dir / _FILE_NAME
    if not path.is_file():
        return []
    try:
        with open_tensors(path) as file:
            notes = json.loads(file.metadata()["examples"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); delete it to build the report without example slices"
        ) from None

    def image(i: int, name: str) -> Image:
        return np.asarray(tensors[f"{i} {name}"], dtype=np.float32)

    def moved(i: int, name: str) -> MovedSource:
        true = image(i, f"true offset {name}") if f"{i} true offset {name}" in tensors else None
        return MovedSource(image(i, f"aligned {name}"), image(i, f"offset {name}"), true)

    return [
        Example(
            site=note["site"],
            unseen=note["unseen"],
            title=note["title"],
            sources={name: image(i, f"source {name}") for name in note["sources"]},
            target=image(i, "target"),
            prediction=image(i, "prediction"),
            foreground=image(i, "foreground") > 0,
            spacing_mm=(note["spacing_mm"][0], note["spacing_mm"][1]),
            moved={name: moved(i, name) for name in note.get("moved", [])},
            attention=note.get("attention", {}),
            through_plane={plane: (both[0], both[1]) for plane, both in note.get("through_plane", {}).items()},
        )
        for i, note in enumerate(notes)
    ]
