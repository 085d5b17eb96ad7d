"""What users of other synthesis tools complain about: one test for each (project and issue in its docstring)."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from agi_core import inference
from agi_core.__main__ import main
from agi_core.config.schema import Task
from agi_core.data.header import Doubt
from agi_core.data.nifti import WRITTEN_STEP, FloatArray, read_volume
from agi_core.data.scans import Scans, discover
from agi_core.errors import DataError
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.scenario import Scenario
from agi_core.synthesis import synthesize_files
from tests.support.finished_run import finished_run
from tests.support.small_data import write_ixi

AFFINE = np.array([[-1.4, 0.17, 0.3, 40.0], [0.2, 1.7, -0.5, -50.0], [-0.1, 0.2, 4.9, -20.0], [0, 0, 0, 1]])
SHAPE = (44, 40, 10)


def head(seed: int) -> FloatArray:
    """A head that no symmetry hides a shift of."""
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = (i - 0.2) ** 2 / 0.5 + (j + 0.1) ** 2 / 0.4 + k**2 / 1.5 < 1
    noise = np.random.default_rng(seed).random(SHAPE)
    return np.asarray(20 * noise + 500 * inside * (1.2 + np.sin(4 * i + seed + k) * np.cos(3 * j)), dtype=np.float32)


def save(path: Path, data: Any, affine: Any = AFFINE) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1, strip_shears=True)
    image.set_sform(affine, code=2)
    nib.save(image, path)
    return path


def synthesize(folder: Path, t1: Path, t2: Path, **options: Any) -> tuple[Path, list[tuple[str, Doubt]]]:
    """With a network that gives back its second source: what comes out is where it was put."""
    out_path = folder / "pd.nii.gz"
    settings = {"scenario": Scenario(("T1", "T2"), "PD"), "grid": "T2", "spacing_mm": None} | options
    doubts = synthesize_files(
        lambda volumes: volumes[:, 1], source_paths={"T1": t1, "T2": t2}, out_path=out_path, **settings
    )
    return out_path, doubts


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    return save(tmp_path / "t1.nii.gz", head(1)), save(tmp_path / "t2.nii.gz", head(2))


def centroid(data: FloatArray) -> Any:
    weight = data - data.min()
    return [(axis * weight).sum() / weight.sum() for axis in np.indices(data.shape)]


@pytest.mark.parametrize("spacing_mm", [None, (1.1, 1.3, 3.7)])
def test_the_output_is_not_shifted(tmp_path: Path, sources: tuple[Path, Path], spacing_mm: Any) -> None:
    """SynDiff#53: outputs are shifted by 2 to 3 pixels."""
    made, _ = synthesize(tmp_path, *sources, spacing_mm=spacing_mm)
    np.testing.assert_allclose(centroid(read_volume(made).data), centroid(read_volume(sources[1]).data), atol=0.25)


@pytest.mark.parametrize("change", [lambda x: 10 * x, lambda x: (x - x.mean()) / x.std(), lambda x: x / x.max()])
def test_the_scale_of_the_input_does_not_matter(tmp_path: Path, sources: tuple[Path, Path], change: Any) -> None:
    """BraSyn_tutorial#2: an SSIM below 0.2 after another normalisation than the tool's."""
    usual = read_volume(synthesize(tmp_path, *sources)[0]).data
    changed = save(tmp_path / "other.nii.gz", change(head(2)))
    other = read_volume(synthesize(tmp_path, sources[0], changed)[0]).data
    np.testing.assert_allclose(other, usual, atol=1.5 * WRITTEN_STEP)


def test_the_grid_and_the_header_are_the_references(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    """SynthSeg#111: output on another grid. freesurfer#1060: the qform is altered."""
    made, _ = synthesize(tmp_path, *sources)
    ours, theirs = nib.load(made).header, nib.load(sources[1]).header
    geometry = "dim pixdim qform_code sform_code quatern_b quatern_c quatern_d qoffset_x qoffset_y qoffset_z"
    for field in (*geometry.split(), "srow_x", "srow_y", "srow_z", "xyzt_units"):
        assert ours[field].tobytes() == theirs[field].tobytes(), field


def test_itk_reads_the_output(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    """freesurfer#1015: ITK cannot read what was written."""
    sitk = pytest.importorskip("SimpleITK")
    straight = np.diag([-1.4, 1.7, 4.9, 1])  # ITK knows no shear
    for path, seed in zip(sources, (1, 2), strict=True):
        save(path, head(seed), straight)
    made = sitk.ReadImage(str(synthesize(tmp_path, *sources)[0]))
    reference = sitk.ReadImage(str(sources[1]))
    for name in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(made, name)() == getattr(reference, name)()


@pytest.mark.parametrize("size_mm", [0.0, 500.0, float("nan")])
def test_an_impossible_spacing_is_refused(tmp_path: Path, sources: tuple[Path, Path], size_mm: float) -> None:
    """SynthSR#21: a bad header, and a silent blur."""
    image = nib.load(sources[1])
    image.header["srow_z"] = [0, 0, size_mm, 0]
    image.header["pixdim"][3] = size_mm
    (tmp_path / "bad.nii").write_bytes(image.header.binaryblock + b"\0\0\0\0" + head(2).tobytes(order="F"))
    with pytest.raises(DataError, match="no orientation that can be believed"):
        synthesize(tmp_path, sources[0], tmp_path / "bad.nii")


def test_what_lies_outside_a_sources_field_of_view_is_told(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    """SlicerModalityConverter#21: artefacts outside of the field of view, without a word."""
    cut = save(tmp_path / "cut.nii.gz", head(1)[:, :, :7])
    _, doubts = synthesize(tmp_path, cut, sources[1])
    ((modality, doubt),) = [each for each in doubts if "can only guess" in each[1].cause]
    assert modality == "T1"
    assert 60 <= int(doubt.found.rstrip("%")) <= 90
    assert not [each for each in synthesize(tmp_path, *sources)[1] if "guess" in each[1].cause]


def test_neighbouring_slices_fit_as_well_as_the_sources(tmp_path: Path, sources: tuple[Path, Path]) -> None:
    """Fast-DDPM#19: slices that jump. Each slice is aligned by itself, and the mean of both sources is made."""
    network = Network(
        Task(scenario="T1,T2:PD", reference="T2", model=ModelConfig(widths=(4, 8), alignment="affine", prior="cubic"))
    )
    network.set_prior(np.array([0, 0.5, 0.5] + [0] * 7))
    save(sources[0], np.roll(np.sqrt(head(2)), 2, axis=0))
    made, source_paths = tmp_path / "made.nii", {"T1": sources[0], "T2": sources[1]}
    inference.synthesize(network, source_paths=source_paths, out_path=made, spacing_mm=None, batch_size=4)

    def likeness(path: Path) -> float:
        slices = np.moveaxis(read_volume(path).data, 2, 0).reshape(SHAPE[2], -1)
        return min(float(np.corrcoef(a, b)[0, 1]) for a, b in pairwise(slices[2:-2]))

    assert likeness(made) > min(likeness(path) for path in sources) - 0.02


def test_a_missing_modality_is_named(
    tmp_path: Path, sources: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """BraTS-Toolkit#42: only some of the modalities are there."""
    finished_run(tmp_path / "run")
    command = ["synthesize", "--run", str(tmp_path / "run"), f"--source=T1={sources[0]}"]
    assert main([*command, "--out", str(tmp_path / "made.nii")]) == 2
    assert "makes PD from T1, T2, but was given T1" in capsys.readouterr().err


def test_every_subject_that_lacks_a_modality_is_listed(tmp_path: Path) -> None:
    """CaPTk#907: "0 subjects", and no reason."""
    write_ixi(tmp_path, {"Guys": 3})
    for name in ("IXI-PD/IXI101-Guys-1101-PD", "IXI-PD/IXI102-Guys-1102-PD", "IXI-T1/IXI102-Guys-1102-T1"):
        (tmp_path / f"{name}.nii.gz").unlink()
    found = discover(Scans(tmp_path, "ixi"), ("T1", "T2", "PD"))
    assert [subject.id for subject in found.subjects] == ["IXI100"]
    assert {("IXI101" in skipped.place, skipped.reason) for skipped in found.skipped} == {
        (True, "no PD"),
        (False, "no T1, PD"),
    }
