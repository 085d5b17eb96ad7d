"""A federation of 3-D networks, as a user types it: `model.dims=3` and nothing else is different."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from agi_core.__main__ import main as agi_core
from agi_core.report.examples import read_examples
from simulations.run import main
from tests.support.small_data import SMALL


def test_a_federation_of_volumes(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    settings = (*SMALL, "model.dims=3", "model.widths=[4,8]", "grid.crop=[32,32,16]", "training.ssim_weight=0.5")
    settings += ("model.alignment=affine",)
    command = ["--data", str(ixi_dir), "--out", str(run_dir), *settings, f"data.cache_dir={cache_dir}"]
    assert main([*command, "--clients", "2", "--compare"]) == 0
    assert "AGI-Net with group alignment in 3-D" in capsys.readouterr().out

    summary = json.loads((run_dir / "summary.json").read_text())
    assert {site: row["subjects"] for site, row in summary["sites"].items()} == {"Guys": 1, "HH": 1}
    assert summary["unseen_sites"]["IOP"]["subjects"] == 3
    # at equal budget: 2 rounds of 2 steps start from the same weights, so no network is far from the others
    psnrs = [summary["baselines"][name]["final"]["psnr_db"] for name in ("local_only", "centralised")]
    assert np.ptp([*psnrs, summary["final"]["psnr_db"]]) < 3
    report = (run_dir / "report.html").read_text()
    for words in ("3-D", "crops of 32 x 32 x 16", "T2 on T1, after", "encoder.0.conv1", "Axial, prediction"):
        assert words in report

    (subject,) = json.loads((run_dir / "splits.json").read_text())["HH"]["test"]
    paths = {modality: next((ixi_dir / f"IXI-{modality}").glob(f"{subject}-*")) for modality in ("T1", "T2", "PD")}
    sources = [text for modality in ("T1", "T2") for text in ("--source", f"{modality}={paths[modality]}")]
    assert agi_core(["synthesize", "--run", str(run_dir), *sources, "--out", str(tmp_path / "pd.nii.gz")]) == 0
    made, real = nibabel.load(tmp_path / "pd.nii.gz"), nibabel.load(paths["PD"])
    np.testing.assert_allclose(made.affine, real.affine, atol=1e-6)
    # the report's slice of that subject comes from the same prediction of the whole volume
    example, *others = (example for example in read_examples(run_dir) if example.site == "HH")
    assert {other.title.partition(", slice ")[0] for other in others} == {example.title}
    assert all(other.target.any() and not other.through_plane for other in others)
    slices = made.get_fdata().transpose(2, 1, 0)
    assert slices.shape[1:] == example.prediction.shape
    assert np.abs(slices - example.prediction).max(axis=(1, 2)).min() < 2e-3  # both in float16 or 16 bits
