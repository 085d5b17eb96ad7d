"""Example slices: what the report shows of the final test, kept in the run folder as `examples.safetensors`.

Images only: no subject id, no file name, no header leaves the scans with them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors

Image = NDArray[np.floating]
T = TypeVar("T", bound=np.generic)

_FILE_NAME = "examples.safetensors"
_NOTED = ("site", "unseen", "title", "spacing_mm", "attention", "through_plane")
_MARGIN_VOX = 8  # around the head


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
    The title is shown in the report, which may be shared: "Guys, test subject 1", never a subject id. `earlier` has
    {round: prediction} of the model on the way. `moved`, `attention` and `through_plane` are for the report's
    diagnostics. Each of these is empty where there is nothing to show.
    """

    site: str
    unseen: bool
    title: str
    sources: Mapping[str, Image]  # {modality: image}, in the scenario's order
    target: Image
    prediction: Image
    foreground: NDArray[np.bool_]
    spacing_mm: tuple[float, float] = (1.0, 1.0)  # of axis 0 and axis 1: the shape in which a pixel is shown
    earlier: Mapping[int, Image] = field(default_factory=dict)
    moved: Mapping[str, MovedSource] = field(default_factory=dict)  # {modality: ...}, all sources but the reference
    attention: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # {layer: {group: mean over the scan}}
    through_plane: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """{plane: SSIM between neighbouring slices of the whole (target, prediction)}"""

    def as_seen(self, image: NDArray[T]) -> NDArray[T]:
        """An image (..., H, W) in the radiological view, anterior at the top and the patient's right on the left.

        It is cut to a box around the foreground with a margin. Without foreground it is left whole.
        """
        rows, columns = slice(None), slice(None)
        if self.foreground.any():
            rows, columns = (
                slice(max(at.min() - _MARGIN_VOX, 0), at.max() + _MARGIN_VOX + 1) for at in self.foreground.nonzero()
            )
        return image[..., rows, columns][..., ::-1, ::-1]

    @property
    def aspect(self) -> float:
        """Width over height of the slice `as_seen`, in mm."""
        height, width = (n * mm for n, mm in zip(self.as_seen(self.target).shape, self.spacing_mm, strict=True))
        return float(width / height)


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
        images |= {f"round {round}": image for round, image in example.earlier.items()}
        for name, moved in example.moved.items():
            images |= {f"aligned {name}": moved.aligned, f"offset {name}": moved.offset_mm}
            if moved.true_offset_mm is not None:
                images[f"true offset {name}"] = moved.true_offset_mm
        tensors |= {f"{i} {name}": np.ascontiguousarray(image, dtype=np.float16) for name, image in images.items()}
        tensors[f"{i} foreground"] = np.ascontiguousarray(example.foreground, dtype=np.uint8)
        note = {name: getattr(example, name) for name in _NOTED}
        notes.append(note | {"sources": [*example.sources], "earlier": [*example.earlier], "moved": [*example.moved]})
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
            **{name: note[name] for name in ("site", "unseen", "title")},
            sources={name: image(i, f"source {name}") for name in note["sources"]},
            target=image(i, "target"),
            prediction=image(i, "prediction"),
            foreground=image(i, "foreground") > 0,
            spacing_mm=(note["spacing_mm"][0], note["spacing_mm"][1]),
            earlier={round: image(i, f"round {round}") for round in note.get("earlier", [])},
            moved={name: moved(i, name) for name in note.get("moved", [])},
            attention=note.get("attention", {}),
            through_plane={plane: (both[0], both[1]) for plane, both in note.get("through_plane", {}).items()},
        )
        for i, note in enumerate(notes)
    ]
