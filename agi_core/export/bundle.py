"""The use of an unpacked zip, from inside of its folder: by MONAI, by torch alone or by onnxruntime alone.

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir SUBJECTS --output_dir OUT
    python -m agi_core.export.bundle --graph models/model.onnx --source T1=FILE --source T2=FILE --out FILE

The zip carries these modules of the release that wrote it, so the preparation of scans is the same code. A graph needs
no more than numpy, scipy, nibabel, safetensors, and torch or onnxruntime.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agi_core.data.header import Doubt, one_line
from agi_core.data.nifti import FloatArray
from agi_core.data.slabs import around, source_box
from agi_core.errors import DataError, RunError
from agi_core.export.description import Description
from agi_core.host.command_line import named_path, run_command
from agi_core.synthesis import synthesize_files

if TYPE_CHECKING:
    from agi_core.network import Network

Graph = Callable[[FloatArray], FloatArray]
"""(1, M, [S,] H, W) -> (1, 1, H, W)"""

DESCRIPTION_PATH = Path("configs") / "agi_fed.json"


def main() -> int:
    """The command of the module."""
    parser = argparse.ArgumentParser(prog="python -m agi_core.export.bundle", description="use of an exported graph")
    parser.add_argument("--graph", type=Path, required=True, help="models/model.pt2 or models/model.onnx")
    parser.add_argument("--source", type=named_path("MODALITY=FILE"), action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    return run_command(lambda: _synthesize(arguments))


def _synthesize(arguments: argparse.Namespace) -> None:
    description, given = read_description(arguments.graph.parent.parent), [name for name, _ in arguments.source]
    if twice := [name for name in dict.fromkeys(given) if given.count(name) > 1]:
        raise DataError(f"--source {twice[0]} is given {given.count(twice[0])} times; give one file for each")
    graph = _open(arguments.graph)
    doubts = synthesize_files(
        lambda volumes: predict_by(graph, volumes, description),
        **settings_of(description),
        source_paths=dict(arguments.source),
        out_path=arguments.out,
    )
    _warn(doubts)
    print(f"synthetic {description.sources_and_target.target} in {arguments.out}")


def _open(path: Path) -> Graph:
    """A graph by its suffix. Raises RunError: it cannot be used, and why."""
    open_graph = {".pt2": open_pt2, ".onnx": open_onnx}.get(path.suffix)
    if open_graph is None:
        raise RunError(f"{path} is neither .pt2 nor .onnx")
    if not path.is_file():
        raise RunError(f"{path} does not exist; docs/README.md of the zip says which graphs it has, and why")
    try:
        return open_graph(path)
    except ImportError as error:
        raise RunError(f"a graph {path.suffix} needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # of classes that torch, zipfile and onnxruntime do not share
        raise RunError(
            f"{path} cannot be opened ({one_line(error)}); unpack the zip again, and compare checksums.sha256"
        ) from None


def _warn(doubts: Iterable[tuple[str, Doubt]], place: str = "") -> None:
    for modality, doubt in doubts:
        print(f"warning: {place}{modality}: {doubt}", file=sys.stderr)


def read_description(bundle_root: Path) -> Description:
    """The description in an unpacked zip. Raises RunError."""
    try:
        return Description.from_json(json.loads((bundle_root / DESCRIPTION_PATH).read_bytes()))
    except (OSError, ValueError) as error:
        raise RunError(f"{bundle_root} is no unpacked zip of a model ({error})") from None


def settings_of(description: Description) -> dict[str, Any]:
    """What `synthesize_files` must know of a model."""
    scenario, spacing_mm = description.sources_and_target, description.task.spacing_mm
    grid = scenario.reference(description.reference)
    return {"scenario": scenario, "grid": grid, "spacing_mm": spacing_mm, "register": description.register}


def predict_by(graph: Graph, volumes: FloatArray, description: Description) -> FloatArray:
    """`agi_core.inference.predict` by a graph, one slice at a time: sources (D, M, H, W) in [0, 1] -> (D, H, W)."""
    rows, columns = source_box(volumes)
    neighbours, multiple = description.task.model.neighbours, description.multiple
    result = np.zeros((len(volumes), *volumes.shape[2:]), dtype=np.float32)
    shown = volumes[..., rows, columns]
    height, width = shown.shape[-2:]
    padding = [(0, 0)] * (2 + (neighbours > 0)) + [(0, -height % multiple), (0, -width % multiple)]
    for k in range(len(volumes)):
        slab = shown[around(k, depth=len(volumes), neighbours=neighbours)].swapaxes(0, 1)[None]  # (1, M, S, h, w)
        made = graph(np.pad(slab if neighbours else slab[:, :, 0], padding))
        result[k, rows, columns] = made[0, 0, :height, :width].clip(0, 1)
    result[~(volumes != 0).any(axis=1)] = 0
    return result


def open_pt2(path: Path) -> Graph:
    """A graph of torch.export, on the CPU. It raises RunError for slices beyond the range that it was traced for."""
    import torch

    module = torch.export.load(path).module()

    def graph(sources: FloatArray) -> FloatArray:
        try:
            with torch.inference_mode():
                made: FloatArray = module(torch.from_numpy(np.ascontiguousarray(sources))).numpy()
        except (AssertionError, RuntimeError) as error:
            size, cause = " x ".join(map(str, sources.shape[-2:])), str(error).strip().splitlines()[0][:200]
            raise RunError(
                f"{path} does not take slices of {size} voxels ({cause}); use the zip with synthesize --model"
            ) from None
        return made

    return graph


def open_onnx(path: Path) -> Graph:
    """A graph of ONNX, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda sources: session.run(None, {name: np.ascontiguousarray(sources)})[0]


class FolderEvaluator:
    """What `configs/inference.json` runs: one output for each folder of `dataset_dir`, in which each source is a file
    `T1.nii.gz` or `T1.nii`."""

    def __init__(self, network: "Network", *, bundle_root: str, dataset_dir: str, output_dir: str) -> None:
        self.network, self.description = network, read_description(Path(bundle_root))
        self.dataset_dir, self.output_dir = Path(dataset_dir), Path(output_dir)

    def run(self) -> None:
        """Synthesise all subjects. Raises DataError."""
        from agi_core.inference import predict

        settings = settings_of(self.description)
        if not self.dataset_dir.is_dir():
            raise DataError(f"{self.dataset_dir} is no folder; give --dataset_dir with a folder for each subject")
        folders = sorted(path for path in self.dataset_dir.iterdir() if path.is_dir())
        if not folders:
            raise DataError(f"{self.dataset_dir} holds no folder; give --dataset_dir with a folder for each subject")
        for folder in folders:
            sources = {m: self._file(folder, m) for m in settings["scenario"].sources}
            doubts = synthesize_files(
                lambda volumes: predict(self.network, volumes, batch_size=8),
                **settings,
                source_paths=sources,
                out_path=self.output_dir / f"{folder.name}.nii.gz",
            )
            _warn(doubts, f"{folder.name}, ")
        print(f"{len(folders)} synthetic {settings['scenario'].target} in {self.output_dir}")

    def _file(self, folder: Path, modality: str) -> Path:
        for path in (folder / f"{modality}.nii.gz", folder / f"{modality}.nii"):
            if path.is_file():
                return path
        raise DataError(f"{folder} has no {modality}.nii.gz; name each scan after its modality")


def open_network(bundle_root: str, device: Any) -> "Network":
    """The network of an unpacked zip, on a torch device; `network_def` of `configs/inference.json`."""
    from safetensors.numpy import load_file

    from agi_core.network import Network

    network = Network(read_description(Path(bundle_root)).task, device=device)
    network.load(load_file(Path(bundle_root) / "models" / "model.safetensors"))
    return network


if __name__ == "__main__":
    sys.exit(main())
