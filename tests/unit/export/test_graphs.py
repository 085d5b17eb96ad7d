"""What can be had as a graph, and what is told of the rest."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.__main__ import main
from agi_core.export.archive import ROOT
from agi_core.export.graphs import example, graphs_of, group_norm, write_onnx
from tests.support.finished_run import finished_run
from tests.support.small_data import write_head


def test_a_3d_network_is_refused_with_the_reason(tmp_path: Path) -> None:
    files, refused = graphs_of(finished_run(tmp_path / "run", dims=3, crop=(32, 16, 16)))
    assert files == {}
    assert set(refused) == {"pt2", "onnx"}
    assert "overlapping windows" in refused["onnx"]


def test_the_example_is_an_image(tmp_path: Path) -> None:
    network = finished_run(tmp_path / "run", alignment="affine", neighbours=1)
    image = example(network, size=(20, 30))
    assert image.shape == (1, 2, 3, 20, 30)
    assert image.min() == 0
    assert 0.5 < image.max() <= 1
    assert not image[:, 0].equal(image[:, 1])


def test_group_normalisation_in_two_stages_is_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 6, 9, 7), (6,), (6,)))
    torch.testing.assert_close(group_norm(x, 3, weight, bias), F.group_norm(x, 3, weight, bias))


@pytest.mark.parametrize("solve", [lambda a, b: torch.linalg.solve_ex(a, b)[0], torch.cholesky_solve])
def test_a_graph_that_solves_equations_is_refused_before_onnx_is_tried(
    tmp_path: Path, solve: Callable[[Tensor, Tensor], Tensor]
) -> None:
    class Solving(nn.Module):  # in a graph within the graph, as an alignment does
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return solve(a, b)

    program = torch.export.export(Solving(), (torch.eye(2), torch.ones(2, 2)))
    with pytest.raises(ValueError, match="for which ONNX has no operator"):
        write_onnx(program, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("alignment", ["none", "global", "affine", "dense"])
def test_graphs_make_the_same_voxels_as_the_run(
    tmp_path: Path, alignment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`.pt2` is there. ONNX is there, or refused because the alignment solves equations."""
    finished_run(tmp_path / "run", alignment=alignment)
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "m.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "m.zip") as zipped:
        zipped.extractall(tmp_path)
    sources = []
    for m, modality in enumerate(("T1", "T2")):
        write_head(tmp_path / f"{modality}.nii.gz", seed=1, contrast=1 + m)
        sources.append(f"--source={modality}={tmp_path / modality}.nii.gz")
    assert main(["synthesize", "--run", str(tmp_path / "run"), *sources, "--out", str(tmp_path / "run.nii")]) == 0
    made = {
        path.suffix[1:]: path for path in (tmp_path / ROOT / "models").iterdir() if path.suffix in (".pt2", ".onnx")
    }
    assert "pt2" in made
    refused = "no onnx in it: the alignment of the sources solves linear equations" in capsys.readouterr().out
    assert ("onnx" in made) == (alignment == "none") == (not refused)
    if alignment != "none":
        return  # the small heads are below the size that an alignment was traced for
    for kind, path in made.items():
        command = [sys.executable, "-m", "agi_core.export.bundle", "--graph", str(path), *sources]
        subprocess.run([*command, "--out", str(tmp_path / f"{kind}.nii")], cwd=tmp_path / ROOT, check=True)
        ours, theirs = (nibabel.load(tmp_path / f"{name}.nii").get_fdata() for name in ("run", kind))
        np.testing.assert_allclose(theirs, ours, atol=1.5e-4)
