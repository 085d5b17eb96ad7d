"""Where the voxels are: sform, qform, what contradicts them, and any header at all."""

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agi_core.data import header, nifti
from agi_core.errors import DataError
from tests.support.placed_scans import HEAD_AFFINE, HEAD_SHAPE, random_data, read_or_refuse, save_placed
from tests.support.written_volume import write_volume

SHARED_DATA_DIR = Path(os.environ.get("AGI_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
TILT = np.array([[1, 0, 0, 0], [0, np.cos(0.21), -np.sin(0.21), 10], [0, np.sin(0.21), np.cos(0.21), 25], [0, 0, 0, 1]])


def test_spacing_of_an_oblique_grid_is_the_length_of_its_columns() -> None:
    grid = header.Grid((2, 2, 2), np.array([[0.0, -3, 0, 0], [4, 0, 0, 0], [3, 4, 2, 0], [0, 0, 0, 1]]))
    assert grid.spacing_mm == (5, 5, 2)


def causes(path: Path) -> list[str]:
    doubts = nifti.read_grid(path).doubts
    assert nifti.read_volume(path).doubts == doubts
    return [str(doubt) for doubt in doubts]


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_header_without_contradiction_has_no_doubts(tmp_path: Path, version: Any) -> None:
    path = save_placed(tmp_path / "a.nii", version=version)
    assert causes(path) == []
    np.testing.assert_allclose(nifti.read_grid(path).affine, HEAD_AFFINE, atol=1e-4)
    assert nifti.read_grid(path).space == header.SCANNER


def test_forms_that_differ_are_named_with_distance_and_spaces(tmp_path: Path) -> None:
    path = save_placed(tmp_path / "a.nii", sform=TILT @ HEAD_AFFINE, codes=(4, 1))
    corners = [HEAD_AFFINE @ [i, j, k, 1] for i in (0, 19) for j in (0, 23) for k in (0, 9)]
    apart_mm = max(np.linalg.norm(TILT @ corner - corner) for corner in corners)
    assert causes(path) == [
        "sform and qform place the scan more than a voxel apart; the sform is used"
        f" (up to {apart_mm:.1f} mm; sform: MNI152, qform: scanner)"
    ]
    np.testing.assert_allclose(nifti.read_grid(path).affine, TILT @ HEAD_AFFINE, atol=1e-4)


@given(offset_vox=st.floats(0, 3), axis=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_forms_may_differ_by_a_voxel(tmp_path_factory: pytest.TempPathFactory, offset_vox: float, axis: int) -> None:
    moved = HEAD_AFFINE.copy()
    moved[axis, 3] += offset_vox * HEAD_AFFINE[axis, axis]
    path = save_placed(tmp_path_factory.mktemp("forms") / "a.nii", qform=moved)
    if abs(offset_vox - 1) > 1e-3:
        assert len(causes(path)) == (offset_vox > 1)


ZERO_ROWS = {"srow_x": 0, "srow_y": 0, "srow_z": 0}
ONE_USABLE: dict[str, tuple[dict[str, Any], str]] = {
    "zero sform": (ZERO_ROWS, "the sform is unusable; the qform is used (it is singular)"),
    "NaN in the sform": ({"srow_y": {3: np.nan}}, "the sform is unusable; the qform is used (it is not finite)"),
    "huge sform": (
        {"srow_x": {0: 5000}},
        "the sform is unusable; the qform is used (it has voxels of 5e+03 x 8 x 14 mm)",
    ),
    "unknown sform": ({"codes": (99, 1)}, "the sform is unusable; the qform is used (it has the unknown code 99)"),
    "long quaternion": ({"quatern_b": 3}, "the qform is unusable; the sform is used (it is no rotation)"),
    "NaN in the quaternion": ({"quatern_c": np.nan}, "the qform is unusable; the sform is used"),
    "pixdim of zero": (
        {"pixdim": {3: 0}},
        "the qform is unusable; the sform is used (it has voxels of 8 x 8 x 0 mm)",
    ),
    "negative pixdim": (
        {"pixdim": {1: -8}},
        "the qform is unusable; the sform is used (it has voxels of -8 x 8 x 14 mm)",
    ),
}


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ONE_USABLE)
def test_the_good_form_is_used_where_the_other_is_unusable(tmp_path: Path, name: str, version: Any) -> None:
    fields, message = ONE_USABLE[name]
    path = save_placed(tmp_path / "a.nii", version=version, **fields)
    assert [cause[: len(message)] for cause in causes(path)] == [message]
    np.testing.assert_allclose(nifti.read_grid(path).affine, HEAD_AFFINE, atol=1e-4)
    write_volume(tmp_path / "b.nii", random_data(HEAD_SHAPE), like=path, descrip="")
    assert causes(tmp_path / "b.nii") == []  # what was not believed is not handed on
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine, HEAD_AFFINE, atol=1e-4)


@pytest.mark.parametrize("name", ONE_USABLE)
def test_a_scan_without_a_usable_form_is_refused(tmp_path: Path, name: str) -> None:
    fields, message = ONE_USABLE[name]
    bad, good = ("sform", "qform") if message.startswith("the sform") else ("qform", "sform")
    codes = fields.get("codes", (1, 1))
    fields = fields | {"codes": (codes[0], 0) if good == "qform" else (0, codes[1])}
    path = save_placed(tmp_path / "a.nii", **fields)
    for read in (nifti.read_grid, nifti.read_volume):
        with pytest.raises(DataError, match=rf"its {good} is not set \(code 0\)") as caught:
            read(path)
        reason = message.partition("(it ")[2].rstrip(")")
        assert str(path) in str(caught.value)
        assert f"its {bad} {reason}" in str(caught.value)


def test_the_identity_beside_a_real_qform_is_no_geometry(tmp_path: Path) -> None:
    path = save_placed(tmp_path / "a.nii", sform=np.eye(4))
    (cause,) = causes(path)
    assert cause.startswith("sform and qform place the scan more than a voxel apart; the qform is used")
    np.testing.assert_allclose(nifti.read_grid(path).affine, HEAD_AFFINE, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"codes": (1, 0), "pixdim": {3: 1}}, "sform and pixdim have different voxel sizes; the sform is used"),
        ({"codes": (0, 1), "pixdim": {0: 5}}, "pixdim[0] is neither 1 nor -1; its sign is used (5)"),
        ({"xyzt_units": 1}, "the unit is not mm, but the voxels are; mm is used"),
        ({"sform": np.eye(4), "qform": np.eye(4)}, "the affine is the identity: a program wrote it"),
        ({"sform": np.diag([8, 8, 40, 1]), "codes": (1, 0), "pixdim": {3: 40}}, "the voxels are not those"),
        ({"sform": np.diag([1, 8, 15, 1]), "codes": (1, 0), "pixdim": {1: 1, 3: 15}}, "the field of view is not that"),
        ({"bitpix": 8}, "datatype and bitpix contradict each other; the datatype is used (float32, 8 bits)"),
    ],
)
def test_odd_fields_are_doubts(tmp_path: Path, fields: dict[str, Any], cause: str) -> None:
    assert any(found.startswith(cause) for found in causes(save_placed(tmp_path / "a.nii", **fields)))


@pytest.mark.parametrize("qfac", [0, -1, 1])
def test_the_handedness_of_the_qform(tmp_path: Path, qfac: int) -> None:
    """The standard reads a pixdim[0] of 0 as 1; -1 turns the third axis round."""
    path = save_placed(tmp_path / "a.nii", codes=(0, 1), pixdim={0: qfac})
    assert not [cause for cause in causes(path) if "pixdim[0]" in cause]
    turned = HEAD_AFFINE @ np.diag([1, 1, -1 if qfac < 0 else 1, 1])
    voxel = nifti.read_volume(path).data[3, 4, 2]
    index = np.rint(np.linalg.solve(turned, nifti.read_grid(path).affine @ [3, 4, 2, 1])[:3]).astype(int)
    assert voxel == random_data(HEAD_SHAPE)[tuple(index)]


@pytest.mark.parametrize(("unit", "unit_mm"), [(1, 1000.0), (3, 0.001)])
def test_metres_and_microns_become_mm(tmp_path: Path, unit: int, unit_mm: float) -> None:
    affine = np.diag([1 / unit_mm] * 3 + [1]) @ HEAD_AFFINE
    path = save_placed(tmp_path / "a.nii", sform=affine, qform=affine, xyzt_units=unit)
    assert causes(path) == []
    np.testing.assert_allclose(nifti.read_grid(path).affine, HEAD_AFFINE, rtol=1e-5)


NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 8.0, 16.0, np.nan, np.inf, -np.inf, 1e-30, 1e30]),
    st.floats(-300, 300, width=32),
)
FIELDS = {
    "sform_code": st.integers(-2, 6),
    "qform_code": st.integers(-2, 6),
    "pixdim": st.dictionaries(st.integers(0, 3), NUMBERS),
    "srow_x": st.dictionaries(st.integers(0, 3), NUMBERS),
    "srow_y": st.dictionaries(st.integers(0, 3), NUMBERS),
    "srow_z": st.dictionaries(st.integers(0, 3), NUMBERS),
    "quatern_b": NUMBERS,
    "quatern_c": NUMBERS,
    "quatern_d": NUMBERS,
    "qoffset_x": NUMBERS,
    "xyzt_units": st.integers(0, 255),
    "scl_slope": NUMBERS,
    "scl_inter": NUMBERS,
    "vox_offset": st.one_of(st.integers(0, 2000), st.sampled_from([352, 544, 2**40])),
    "datatype": st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 9999]),
    "bitpix": st.sampled_from([0, 8, 16, 32, 64, 7]),
    "dim": st.dictionaries(st.integers(0, 7), st.integers(-3, 300)),
}


def check_any_header(path: Path, version: Any, changed: dict[str, Any]) -> None:
    """Voxel by voxel where the header, as nibabel reads it, says; or a doubt; or one sentence."""
    codes = changed.pop("sform_code", 1), changed.pop("qform_code", 1)
    save_placed(path, version=version, codes=codes, **changed)
    volume, refusal = read_or_refuse(path)
    if volume is None:
        assert str(path) in refusal
        assert "\n" not in refusal
        return
    assert np.isfinite(volume.data).all()
    assert np.isfinite(volume.affine).all()
    assert volume.grid.shape == nifti.read_grid(path).shape
    np.testing.assert_array_equal(nifti.read_grid(path).affine, volume.affine)
    if volume.doubts or changed.get("xyzt_units", 2) & 7 in (1, 3):
        return
    stored = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_allclose(volume.affine, stored.affine, atol=1e-3)
    np.testing.assert_array_equal(volume.data, stored.get_fdata(dtype=np.float32).reshape(volume.data.shape))


CHANGES = st.lists(st.sampled_from(list(FIELDS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


@given(version=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]), changed=CHANGES)
@settings(max_examples=100, deadline=None)
def test_any_header_is_read_right_doubted_or_refused(
    tmp_path_factory: pytest.TempPathFactory, version: Any, changed: dict[str, Any]
) -> None:
    check_any_header(tmp_path_factory.getbasetemp() / "any.nii", version, changed)


@pytest.mark.slow
@given(version=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]), changed=CHANGES)
@settings(max_examples=2000, deadline=None)
def test_two_thousand_headers(tmp_path_factory: pytest.TempPathFactory, version: Any, changed: dict[str, Any]) -> None:
    check_any_header(tmp_path_factory.getbasetemp() / "any.nii", version, changed)


@pytest.mark.skipif(not SHARED_DATA_DIR.is_dir(), reason="real scans are not part of the repository")
def test_no_honest_scan_is_doubted() -> None:
    paths = [
        path
        for folder in ("ixi", "brats_like", "ms_bids", "raw", "templates")
        for path in sorted((SHARED_DATA_DIR / folder).rglob("*.nii.gz"))
    ]
    assert paths
    for path in paths:
        assert nifti.read_grid(path).doubts == (), path
