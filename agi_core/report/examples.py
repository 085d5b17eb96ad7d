"""Example slices: what the report shows of the final test, kept in the run folder as `examples.safetensors`.

Images only: no subject id, no file name, no header leaves the scans with them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from agi_core import atomic
from agi_core.errors import RunError

Image = NDArray[np.floating]

_FILE_NAME = "examples.safetensors"


@dataclass(frozen=True)
class Example:
    """One axial slice of a test subject.

    All arrays are (H, W), axis 0 towards anterior, axis 1 towards the patient's right; intensities in [0, 1].
    The title is shown in the report, which may be shared: "Guys, test subject 1", never a subject id.
    """

    site: str
    unseen: bool
    title: str
    sources: Mapping[str, Image]  # {modality: image}, in the scenario's order
    target: Image
    prediction: Image
    foreground: NDArray[np.bool_]
    spacing_mm: tuple[float, float] = (1.0, 1.0)  # of axis 0 and axis 1: the shape in which a pixel is shown


def write_examples(run_dir: Path, examples: Sequence[Example]) -> None:
    """Replace the run's example slices. Intensities are kept as float16: to 0.0005.

    Raises:
        RunError: the folder cannot be written.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    notes = []
    for i, example in enumerate(examples):
        images = {f"source {name}": image for name, image in example.sources.items()}
        images |= {"target": example.target, "prediction": example.prediction}
        tensors |= {f"{i} {name}": np.ascontiguousarray(image, dtype=np.float16) for name, image in images.items()}
        tensors[f"{i} foreground"] = np.ascontiguousarray(example.foreground, dtype=np.uint8)
        notes.append(
            {
                "site": example.site,
                "unseen": example.unseen,
                "title": example.title,
                "sources": list(example.sources),
                "spacing_mm": list(example.spacing_mm),
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
        with safe_open(path, framework="np") as file:
            notes = json.loads(file.metadata()["examples"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); delete it to build the report without example slices"
        ) from None

    def image(i: int, name: str) -> Image:
        return np.asarray(tensors[f"{i} {name}"], dtype=np.float32)

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
        )
        for i, note in enumerate(notes)
    ]
