"""NIfTI in, NIfTI out: geometry over the 48 orientations, values against the model itself."""

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agi_core import synthesis
from agi_core.config.schema import GridConfig, Task
from agi_core.data.header import Doubt
from agi_core.data.intensity import scale_intensity
from agi_core.data.nifti import WRITTEN_STEP, read_volume
from agi_core.errors import DataError, RunError
from agi_core.inference import predict, synthesize
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.scenario import Scenario

SCENARIO = Scenario(("T1", "T2"), "PD")
ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for flips in product((0, 1), repeat=3)
]
AFFINE = np.array([[1.47, -0.17, 0.35, -6.0], [0.20, 1.72, -0.61, -8.0], [-0.10, 0.21, 4.95, 1.5], [0, 0, 0, 1]])


def network_of(*, crop: tuple[int, ...] = (), reference: str = "T2", bias: float = 0.5, **model: Any) -> Network:
    """A small untrained network; its predictions are around `bias`, so that clipping leaves something to compare."""
    config, grid = ModelConfig(**{"widths": (4, 8), **model}), GridConfig(crop=crop or None)
    network = Network(Task(scenario=str(SCENARIO), reference=reference, model=config, grid=grid))
    with torch.no_grad():
        network.module.head.bias.fill_(bias)
    return network


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of()


def scan(seed: int, shape: tuple[int, int, int] = (14, 17, 6)) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A head-like ellipsoid with texture, in noise."""
    index = (np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2) / (np.array(shape) / 2.2)[
        :, None, None, None
    ]
    noise = np.random.default_rng(seed).random(shape)
    return np.asarray(100 * noise + 900 * ((index**2).sum(axis=0) < 1) * (0.5 + noise / 2), dtype=np.float32)


def save(path: Path, data: Any, *, affine: Any = AFFINE, codes: str = "RAS") -> Path:
    """Store RAS+ data in another orientation, with different sform and qform codes."""
    ras, wanted = nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    image = nib.Nifti1Image(data, affine).as_reoriented(nib.orientations.ornt_transform(ras, wanted))
    image.set_sform(image.affine, code=4)
    image.set_qform(image.affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def run(network: Network, out_path: Path, sources: dict[str, Path], **options: Any) -> list[tuple[str, Doubt]]:
    settings: dict[str, Any] = {"spacing_mm": None, "batch_size": 4}
    return synthesize(network, source_paths=sources, out_path=out_path, **(settings | options))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_geometry_and_values_over_the_48_orientations(tmp_path: Path, network: Network, codes: str) -> None:
    t1, t2 = scan(1), scan(2)
    sources = {
        "T2": save(tmp_path / "t2.nii.gz", t2, codes=codes),
        "T1": save(tmp_path / "t1.nii", t1, codes=codes[::-1]),
    }
    run(network, tmp_path / "pd.nii.gz", sources)

    written, reference = nib.load(tmp_path / "pd.nii.gz"), nib.load(sources["T2"])
    assert written.shape == reference.shape
    assert "".join(nib.aff2axcodes(written.affine)) == codes
    np.testing.assert_allclose(written.affine, reference.affine, rtol=0, atol=1e-6)
    for form, code in (("sform", 4), ("qform", 1)):
        ours, our_code = getattr(written.header, f"get_{form}")(coded=True)
        theirs, _ = getattr(reference.header, f"get_{form}")(coded=True)
        assert our_code == code
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(written.header.get_zooms(), reference.header.get_zooms(), rtol=0, atol=1e-6)
    assert written.header.get_xyzt_units()[0] == "mm"

    stack = np.stack([scale_intensity(t1)[0], scale_intensity(t2)[0]], axis=1)  # (I, M, J, K)
    slices = torch.from_numpy(stack.transpose(3, 1, 2, 0).copy())  # (D, M, H, W), H 17: padded to 18
    with torch.inference_mode():
        padded = network.module(nn.functional.pad(slices, (0, 0, 0, 1)))
    expected = padded[:, 0, :17].clamp(0, 1).numpy().transpose(2, 1, 0)
    assert expected.std() > 0.01
    np.testing.assert_allclose(read_volume(tmp_path / "pd.nii.gz").data, expected, atol=WRITTEN_STEP)


def test_a_3d_model_on_few_thick_slices(tmp_path: Path) -> None:
    """Six slices of 5 mm in a window of 16: centred in zeros, and cut back."""
    network = network_of(dims=3, crop=(24, 16, 16))
    t1, t2 = scan(1), scan(2)
    sources = {"T1": save(tmp_path / "t1.nii.gz", t1), "T2": save(tmp_path / "t2.nii.gz", t2, codes="PIL")}
    run(network, tmp_path / "pd.nii.gz", sources)

    written, reference = nib.load(tmp_path / "pd.nii.gz"), nib.load(sources["T2"])
    assert written.shape == reference.shape
    np.testing.assert_allclose(written.affine, reference.affine, rtol=0, atol=1e-6)
    stack = np.stack([scale_intensity(t1)[0], scale_intensity(t2)[0]])  # (M, I, J, K)
    volume = torch.from_numpy(stack.transpose(0, 3, 2, 1).copy())[None]  # (1, M, D, H, W) of 6, 17 and 14
    with torch.inference_mode():
        padded = network.module(nn.functional.pad(volume, (1, 1, 3, 4, 5, 5)))
    expected = padded[0, 0, 5:11, 3:20, 1:15].clamp(0, 1).numpy().transpose(2, 1, 0)
    assert expected.std() > 0.01
    np.testing.assert_allclose(read_volume(tmp_path / "pd.nii.gz").data, expected, atol=WRITTEN_STEP)


class Second(nn.Module):
    """Gives back its second source: what comes out is where it was put."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


def smooth_scan(shape: tuple[int, int, int], affine: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One smooth object in world coordinates, sampled on any grid."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    return np.asarray(1000 * np.exp(-(((mm - [10, 12, 8]) / 9) ** 2).sum(axis=-1)) + 1, dtype=np.float32)


@pytest.mark.parametrize("spacing_mm", [None, (1.2, 1.2, 1.2)])
def test_a_source_on_another_grid_lands_at_its_place(tmp_path: Path, spacing_mm: Any) -> None:
    thin, other = np.diag([1.0, 1.0, 1.0, 1.0]), AFFINE @ np.diag([1, 1, 0.4, 1])
    other[:3, 3] = (-2, -4, -2)
    sources = {
        "T1": save(tmp_path / "t1.nii", smooth_scan((22, 26, 18), thin), affine=thin, codes="PSR"),
        "T2": save(tmp_path / "t2.nii", smooth_scan((18, 20, 12), other), affine=other, codes="LPS"),
    }
    network = network_of(reference="T1")
    network.module = Second()  # type: ignore[assignment]
    run(network, tmp_path / "pd.nii", sources, spacing_mm=spacing_mm)
    result, truth = read_volume(tmp_path / "pd.nii"), read_volume(sources["T1"])
    assert result.data.shape == (22, 26, 18)
    np.testing.assert_array_equal(result.affine, truth.affine)
    centre = (slice(4, -4),) * 3
    assert np.corrcoef(result.data[centre].ravel(), truth.data[centre].ravel())[0, 1] > 0.99


def test_batches_do_not_change_the_result(network: Network) -> None:
    volumes = np.random.default_rng(0).random((7, 2, 10, 13), dtype=np.float32)
    whole = predict(network, volumes, batch_size=7)
    assert whole.shape == (7, 10, 13)
    np.testing.assert_allclose(predict(network, volumes, batch_size=3), whole, atol=1e-6)


def test_the_file_says_what_it_is(tmp_path: Path, network: Network) -> None:
    sources = {"T1": save(tmp_path / "t1.nii", scan(1)), "T2": save(tmp_path / "t2.nii", scan(2))}
    run(network, tmp_path / "pd.nii", sources)
    image = nib.load(tmp_path / "pd.nii")
    assert image.header["descrip"].item() == b"synthetic PD; 0..1 = p0.5..p99.5 of a real one"
    assert image.dataobj.slope == pytest.approx(WRITTEN_STEP)
    assert image.get_data_dtype() == np.int16


def test_bad_requests_are_refused(tmp_path: Path, network: Network) -> None:
    t1, t2 = save(tmp_path / "t1.nii", scan(1)), save(tmp_path / "t2.nii", scan(2))
    far = AFFINE.copy()
    far[0, 3] += 1000
    save(tmp_path / "far.nii", scan(1), affine=far)
    out_path = tmp_path / "pd.nii"
    with pytest.raises(DataError, match="makes PD from T1, T2, but was given T1"):
        run(network, out_path, {"T1": t1})
    with pytest.raises(DataError, match="with FLAIR as reference"):
        run(network, out_path, {"T1": t1, "T2": t2}, grid="FLAIR")
    with pytest.raises(DataError, match="is one of the sources"):
        run(network, t1, {"T1": t1, "T2": t2})
    with pytest.raises(DataError, match=r"pd\.nii is named for two outputs"):
        synthesis.synthesize_files(
            lambda volumes: volumes[:, 0],
            scenario=network.scenario,
            grid="T2",
            source_paths={"T1": t1, "T2": t2},
            out_path=out_path,
            spacing_mm=None,
            second=synthesis.Second(out_path, "expected error"),
        )
    with pytest.raises(DataError, match="T1 covers 0% of the head in T2"):
        run(network, out_path, {"T1": tmp_path / "far.nii", "T2": t2})
    with pytest.raises(DataError, match=r"end in \.nii"):
        run(network, tmp_path / "pd.mgz", {"T1": t1, "T2": t2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.nii", "t1.nii", "t2.nii"]


def test_a_network_with_neighbours_sees_them(tmp_path: Path) -> None:
    """The same file as from the network's own predictions of slabs, in batches of any size."""
    network = network_of(conv="plain", alignment="affine", neighbours=1)
    volumes = np.random.default_rng(0).random((5, 2, 10, 14), dtype=np.float32)
    around = np.array([[1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 3]])
    with torch.inference_mode():
        expected = network.module(torch.from_numpy(volumes[around].swapaxes(1, 2)))[:, 0].clamp(0, 1).numpy()
    result = predict(network, volumes, batch_size=2)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    sources = {"T1": save(tmp_path / "t1.nii", scan(1)), "T2": save(tmp_path / "t2.nii", scan(2))}
    run(network, tmp_path / "pd.nii", sources)
    assert read_volume(tmp_path / "pd.nii").data.shape == read_volume(sources["T2"]).data.shape


def test_a_diverged_model_writes_nothing(tmp_path: Path) -> None:
    network = network_of(conv="plain", bias=torch.nan)
    sources = {"T1": save(tmp_path / "t1.nii", scan(1)), "T2": save(tmp_path / "t2.nii", scan(2))}
    with pytest.raises(RunError, match="not finite"):
        run(network, tmp_path / "pd.nii", sources)
    assert not (tmp_path / "pd.nii").exists()


@pytest.mark.parametrize("give", ["the same", "a link", "a copy"])
def test_one_scan_is_not_two_sources(tmp_path: Path, network: Network, give: str) -> None:
    t1 = save(tmp_path / "t1.nii.gz", scan(1))
    t2 = t1 if give == "the same" else tmp_path / "t2.nii.gz"
    if give == "a link":
        t2.symlink_to(t1)
    if give == "a copy":
        save(t2, scan(1), codes="PIR")
    with pytest.raises(DataError, match=r"t1\.nii\.gz for T1 and .* for T2 are the same image"):
        run(network, tmp_path / "pd.nii.gz", {"T1": t1, "T2": t2})
    assert not (tmp_path / "pd.nii.gz").exists()


def test_doubts_about_the_sources_headers_come_back(tmp_path: Path, network: Network) -> None:
    t1, t2 = save(tmp_path / "t1.nii", scan(1)), save(tmp_path / "t2.nii", scan(2))
    image = nib.load(t1)
    moved = image.affine.copy()
    moved[0, 3] += 5
    image.set_qform(moved, code=1)
    nib.save(image, tmp_path / "moved.nii")
    usual = run(network, tmp_path / "pd.nii", {"T1": t1, "T2": t2})
    doubts = run(network, tmp_path / "pd.nii", {"T1": tmp_path / "moved.nii", "T2": t2})
    ((modality, doubt),) = [found for found in doubts if found not in usual]
    assert modality == "T1"
    assert str(doubt).startswith("sform and qform place the scan more than a voxel apart; the sform is used (up to 5.")
