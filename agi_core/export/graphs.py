"""A network as a graph that needs no program of ours: `.pt2` (torch.export) and ONNX.

A graph takes one slice, or slab, of any size that is a multiple of the network's: (1, M, [S,] H, W) -> (1, 1, H, W). It
is kept only if it equals the network on slices of real sizes; else the reason is told.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from agi_core.export.bundle import Graph, open_onnx, open_pt2
from agi_core.network import Network

TOLERANCE = 1e-4
REAL_SIZES = ((192, 160), (224, 256))
"""Rows and columns of a head in a slice, and of a whole slice."""


def graphs_of(network: Network) -> tuple[dict[str, bytes], dict[str, str]]:
    """The graphs that can be had, {"pt2" or "onnx": file}, and {the same: why not, as a sentence} of the others."""
    files: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    if network.volumetric:
        reason = "a 3-D model sees a volume through overlapping windows, which are no part of a graph"
        return files, dict.fromkeys(("pt2", "onnx"), reason)
    with TemporaryDirectory() as folder:
        try:
            program = _program(network)
        except Exception as error:  # torch raises whatever stands in its way
            return files, dict.fromkeys(
                ("pt2", "onnx"), f"torch.export cannot follow the network: {_first_line(error)}"
            )
        writers: dict[str, tuple[Callable[[Path], object], Callable[[Path], Graph]]] = {
            "pt2": (lambda path: torch.export.save(program, path), open_pt2),
            "onnx": (lambda path: write_onnx(program, path), open_onnx),
        }
        for kind, (write, read) in writers.items():
            path = Path(folder) / f"model.{kind}"
            try:
                write(path)
                worst = max(_difference(network, read(path), size=size) for size in REAL_SIZES)
            except ImportError as error:
                refused[kind] = f"{error.name} is not installed here; pip install '.[export]' and export again"
            except Exception as error:
                refused[kind] = _first_line(error)
            else:
                if worst > TOLERANCE:
                    refused[kind] = f"its voxels differ by {worst:.1g} from the network's, more than {TOLERANCE:g}"
                else:
                    files[kind] = path.read_bytes()
    return files, refused


def example(network: Network, *, size: tuple[int, int]) -> Tensor:
    """A slice, or slab, that looks like an image: smooth, with one structure in all sources, zero at its border."""
    sources = len(network.scenario.sources)
    slices = 2 * network.neighbours + 1
    rows, columns = (torch.linspace(-1, 1, n) for n in size)
    radius = (rows[:, None] / 0.9).square() + (columns / 0.8).square()
    waves = torch.stack(
        [
            0.5 + 0.3 * torch.cos((7 + s) * rows[:, None] + 0.1 * k) * torch.cos((5 - s) * columns + 0.2 * s)
            for s in range(sources)
            for k in range(slices)
        ]
    )
    image = (waves * (radius < 1)).reshape(1, sources, slices, *size)
    return image if network.neighbours else image[:, :, 0]


def _program(network: Network) -> ExportedProgram:
    module = network.module.eval().cpu()
    inputs = example(network, size=REAL_SIZES[0])
    fixed: list[object] = [Dim.STATIC] * (inputs.dim() - 2)
    with torch.no_grad(), _quiet():
        return torch.export.export(module, (inputs,), dynamic_shapes=((*fixed, Dim.AUTO, Dim.AUTO),), strict=False)


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Raises ValueError at once for a graph that solves equations, and what torch raises for all else."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)]
    called = " ".join(str(node.target) for graph in graphs for node in graph.nodes)
    if "linalg" in called or "cholesky" in called:  # the exporter finds out too, after many minutes
        raise ValueError("the alignment of the sources solves linear equations, for which ONNX has no operator")
    import onnx  # noqa: F401  here and first, so that what is missing is named
    import onnxscript  # noqa: F401

    with _quiet():
        torch.onnx.export(
            program.run_decompositions({torch.ops.aten.group_norm.default: group_norm}),
            (),
            path,
            dynamo=True,
            input_names=["sources"],
            output_names=["target"],
            external_data=False,
            verbose=False,
        )


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Tensor:
    """Group normalisation of (B, C, *space), its means in two stages: ONNX's own sums a whole group in float32, which
    loses digits as a slice grows."""
    y = x.reshape(len(x), groups, -1, x.shape[-1])
    y = y - y.mean(-1, keepdim=True).mean(-2, keepdim=True)
    variance = y.square().mean(-1, keepdim=True).mean(-2, keepdim=True)
    per_channel = (-1, *[1] * (x.dim() - 2))
    scaled = (y * torch.rsqrt(variance + eps)).reshape(x.shape)
    return scaled * weight.reshape(per_channel) + bias.reshape(per_channel)


def _difference(network: Network, graph: Graph, *, size: tuple[int, int]) -> float:
    sources = example(network, size=size)
    with torch.inference_mode():
        expected = network.module(sources)
    return float((torch.from_numpy(graph(sources.numpy())) - expected).abs().max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters speak to programmers, on every channel."""
    nowhere, before = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    """Of what was raised first: the exporters wrap it in advice for programmers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).strip().splitlines()[:1])[:200] or type(error).__name__
