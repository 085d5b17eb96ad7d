"""NIfTI in and out: values, orientation, refusals."""

import gzip
import os
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agi_core.data import nifti
from agi_core.errors import DataError

ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for flips in product((0, 1), repeat=3)
]
OBLIQUE_AFFINE = np.array(
    [[1.47, -0.17, 0.35, -60.0], [0.20, 1.72, -0.61, -80.0], [-0.10, 0.21, 4.95, 12.5], [0, 0, 0, 1]]
)


SHARED_DATA_DIR = Path(os.environ.get("AGI_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


def random_data(shape: tuple[int, ...] = (5, 6, 7), seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def save(path: Path, data: Any, affine: Any = OBLIQUE_AFFINE, **header_fields: Any) -> Path:
    image = nib.Nifti1Image(data, affine)
    for field, value in header_fields.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def save_oriented(path: Path, data: Any, affine: Any, codes: str) -> Path:
    """Store RAS+ `data` with the axis order and directions `codes`, by nibabel's own reorientation."""
    ornt = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    image = nib.Nifti1Image(data, affine).as_reoriented(ornt)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(image.affine, code=2)
    image.set_qform(image.affine, code=1, strip_shears=True)
    nib.save(image, path)
    assert "".join(nib.aff2axcodes(nib.load(path).affine)) == codes
    return path


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_is_read_alike_and_written_back(tmp_path: Path, codes: str) -> None:
    data = random_data()
    path = save_oriented(tmp_path / "a.nii.gz", data, OBLIQUE_AFFINE, codes)

    volume = nifti.read_volume(path)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, OBLIQUE_AFFINE, atol=1e-4)
    grid = nifti.read_grid(path)
    assert grid.shape == data.shape
    np.testing.assert_array_equal(grid.affine, volume.affine)

    nifti.write_volume(tmp_path / "out.nii.gz", volume.data, like=path, descrip="test")
    stored, written = nib.load(path), nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.get_fdata(), stored.get_fdata(), atol=nifti.WRITTEN_STEP)
    np.testing.assert_array_equal(written.affine, stored.affine)
    for form in ("sform", "qform"):
        for ours, theirs in zip(
            getattr(written.header, f"get_{form}")(coded=True),
            getattr(stored.header, f"get_{form}")(coded=True),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert written.header.get_zooms() == stored.header.get_zooms()
    assert written.header.get_xyzt_units() == ("mm", "sec")


@given(value=st.floats(0, 1, width=32))
@settings(max_examples=20, deadline=None)
def test_written_values_are_kept_to_half_a_step(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    tmp_path = tmp_path_factory.mktemp("values")
    like = save(tmp_path / "a.nii", random_data((2, 2, 2)))
    nifti.write_volume(
        tmp_path / "b.nii", np.full((2, 2, 2), value, np.float32), like=like, descrip="synthetic PD 0..1"
    )
    image = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(image.get_fdata(), value, atol=nifti.WRITTEN_STEP / 2 + 1e-6)
    assert image.header["descrip"].item() == b"synthetic PD 0..1"


def test_spacing_of_an_oblique_grid_is_the_length_of_its_columns() -> None:
    grid = nifti.Grid((2, 2, 2), np.array([[0.0, -3, 0, 0], [4, 0, 0, 0], [3, 4, 2, 0], [0, 0, 0, 1]]))
    assert grid.spacing_mm == (5, 5, 2)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    data = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    image = nib.Nifti1Image(data, np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = nifti.read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, data * 0.5 - 3)
    assert volume.data.dtype == np.float32
    assert volume.affine.dtype == np.float64


def test_a_trailing_singleton_is_dropped(tmp_path: Path) -> None:
    data = random_data((3, 4, 5, 1))
    path = save(tmp_path / "a.nii.gz", data)
    assert nifti.read_volume(path).data.shape == nifti.read_grid(path).shape == (3, 4, 5)
    nifti.write_volume(tmp_path / "b.nii.gz", data[..., 0], like=path, descrip="")
    assert nib.load(tmp_path / "b.nii.gz").shape == (3, 4, 5)


def test_nothing_that_may_name_a_person_is_copied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(random_data((2, 3, 4)), np.eye(4))
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes().count(b"DOE^JANE") == 5
    nifti.write_volume(tmp_path / "b.nii", random_data((2, 3, 4)), like=tmp_path / "a.nii", descrip="synthetic T2")
    assert b"DOE" not in (tmp_path / "b.nii").read_bytes()


def test_write_scan_keeps_dtype_axes_and_affine(tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    nifti.write_scan(tmp_path / "a.nii.gz", data, affine=affine, descrip="phantom")
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)
    np.testing.assert_array_equal(image.affine, affine)
    assert image.get_data_dtype() == np.int16
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    np.testing.assert_array_equal(nifti.read_volume(tmp_path / "a.nii.gz").data, data[::-1, ::-1])


def test_output_names_and_values_are_checked(tmp_path: Path) -> None:
    like = save(tmp_path / "a.nii", random_data((2, 2, 2)))
    with pytest.raises(DataError, match=r"end in \.nii or \.nii\.gz"):
        nifti.write_volume(tmp_path / "b.mgz", random_data((2, 2, 2)), like=like, descrip="")
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        nifti.write_volume(tmp_path / "b.nii", random_data((2, 2, 2)) - 1, like=like, descrip="")
    with pytest.raises(ValueError, match="on the grid"):
        nifti.write_volume(tmp_path / "b.nii", random_data((2, 2, 3)), like=like, descrip="")
    assert list(tmp_path.iterdir()) == [like]


@pytest.mark.skipif(not (SHARED_DATA_DIR / "ixi").is_dir(), reason="real scans are not part of the repository")
def test_a_real_ixi_scan_stored_as_psr_with_a_slope() -> None:
    path = SHARED_DATA_DIR / "ixi" / "IXI012-HH-1211_T1.nii.gz"
    stored = nib.load(path)
    assert stored.shape == (120, 120, 90)
    assert nib.aff2axcodes(stored.affine) == ("P", "S", "R")
    volume = nifti.read_volume(path)
    assert volume.data.shape == (90, 120, 120)
    np.testing.assert_allclose(volume.grid.spacing_mm, 2, atol=1e-5)
    for index in ((45, 60, 60), (20, 80, 30)):
        mm = volume.affine @ [*index, 1]
        i, j, k = np.rint(np.linalg.solve(stored.affine, mm)[:3]).astype(int)
        assert volume.data[index] == pytest.approx(stored.dataobj.get_unscaled()[i, j, k] * stored.dataobj.slope)


def truncated(path: Path) -> None:
    save(path, random_data((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:5000])


def truncated_unzipped(path: Path) -> None:
    save(path.with_name("b.nii"), random_data((20, 20, 20)))
    with gzip.open(path, "wb") as file:
        file.write(path.with_name("b.nii").read_bytes()[:5000])


def bomb(path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((32000, 32000, 32000))
    header.set_sform(np.eye(4), code=1)
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + bytes(100))


def with_one(value: float) -> Any:
    data = random_data()
    data[1, 2, 3] = value
    return data


def no_orientation(path: Path) -> None:
    save(path, random_data(), None, sform_code=0, qform_code=0)


def singular(path: Path) -> None:
    save(path, random_data(), None, srow_x=[1, 0, 0, 0], srow_y=[0, 1, 0, 0], srow_z=np.zeros(4), sform_code=1)


BROKEN: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: None, "does not exist"),
    "truncated gzip": (truncated, "truncated"),
    "fewer voxels than claimed": (truncated_unzipped, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable NIfTI"),
    "text": (lambda path: path.write_bytes(b"hello" * 200), "not a readable NIfTI"),
    "gzipped text": (lambda path: path.write_bytes(gzip.compress(b"hello" * 200)), "not a readable NIfTI"),
    "two volumes": (lambda path: save(path, random_data((3, 4, 5, 2))), "one 3-D volume"),
    "two dimensions": (lambda path: save(path, random_data((3, 4))), "one 3-D volume"),
    "NaN": (lambda path: save(path, with_one(np.nan)), "NaN or infinity in 1 voxels"),
    "infinity": (lambda path: save(path, with_one(-np.inf)), "NaN or infinity in 1 voxels"),
    "constant": (lambda path: save(path, np.full((3, 4, 5), 7, np.int16)), "constant: every voxel is 7"),
    "bomb": (bomb, "32000.*GiB in memory.*limit 4"),
    "colour": (lambda path: save(path, np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])), "colour"),
    "complex": (lambda path: save(path, random_data().astype(np.complex64)), "complex"),
    "no orientation": (no_orientation, "no orientation"),
    "singular affine": (singular, "singular"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_place_and_cause(tmp_path: Path, name: str) -> None:
    make, message = BROKEN[name]
    path = tmp_path / "IXI012-T1.nii.gz"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        nifti.read_volume(path)
    assert str(path) in str(caught.value)
    assert str(path) not in caught.value.public


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mgz"
    nib.save(nib.MGHImage(random_data(), np.eye(4)), path)
    with pytest.raises(DataError, match="no header of NIfTI-1 or NIfTI-2"):
        nifti.read_grid(path)


@given(content=st.binary(max_size=600), offset=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, offset: int
) -> None:
    path = save(tmp_path_factory.mktemp("damaged") / "a.nii", random_data((4, 4, 4)))
    whole = path.read_bytes()
    path.write_bytes(whole[:offset] + content + whole[offset + len(content) :])
    try:
        volume = nifti.read_volume(path)
    except DataError:
        return
    assert np.isfinite(volume.data).all()


# WHERE THE VOXELS ARE: SFORM, QFORM, AND WHAT CONTRADICTS THEM

HEAD_SHAPE = (20, 24, 10)
HEAD_AFFINE = np.diag([8.0, 8.0, 14.0, 1.0])
HEAD_AFFINE[:3, 3] = -75, -90, -70
TILT = np.array([[1, 0, 0, 0], [0, np.cos(0.21), -np.sin(0.21), 10], [0, np.sin(0.21), np.cos(0.21), 25], [0, 0, 0, 1]])


def save_placed(
    path: Path,
    *,
    sform: Any = HEAD_AFFINE,
    qform: Any = HEAD_AFFINE,
    codes: tuple[int, int] = (1, 1),
    version: Any = nib.Nifti1Image,
    **raw_fields: Any,
) -> Path:
    """A scan with both forms; `raw_fields` are then written into the file's header as they are."""
    image = version(random_data(HEAD_SHAPE), None)
    image.set_qform(qform, code=1)
    image.set_sform(sform, code=1)
    nib.save(image, path)
    content = bytearray(path.read_bytes())
    header = np.ndarray((), image.header.template_dtype, buffer=content)
    header["sform_code"], header["qform_code"] = codes
    for field, value in raw_fields.items():
        if isinstance(value, dict):
            for index, number in value.items():
                header[field][index] = number
        else:
            header[field] = value
    path.write_bytes(content)
    return path


def causes(path: Path) -> list[str]:
    doubts = nifti.read_grid(path).doubts
    assert nifti.read_volume(path).doubts == doubts
    return [str(doubt) for doubt in doubts]


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_header_without_contradiction_has_no_doubts(tmp_path: Path, version: Any) -> None:
    path = save_placed(tmp_path / "a.nii", version=version)
    assert causes(path) == []
    np.testing.assert_allclose(nifti.read_grid(path).affine, HEAD_AFFINE, atol=1e-4)
    assert nifti.read_grid(path).space == nifti.SCANNER


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
    nifti.write_volume(tmp_path / "b.nii", random_data(HEAD_SHAPE), like=path, descrip="")
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


# INTEGRITY, FORMATS


def read_or_refuse(path: Path) -> tuple[nifti.Volume | None, str]:
    try:
        return nifti.read_volume(path), ""
    except DataError as error:
        return None, str(error)


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_of_a_gzip_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    """Read as it was, or refused with the file's name; never other voxels."""
    path = save(tmp_path_factory.getbasetemp() / "flipped.nii.gz", random_data(HEAD_SHAPE), HEAD_AFFINE)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    volume, refusal = read_or_refuse(path)
    if volume is None:
        assert str(path) in refusal
        return
    np.testing.assert_array_equal(volume.data, random_data(HEAD_SHAPE))
    np.testing.assert_allclose(volume.affine, HEAD_AFFINE, atol=1e-4)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_describes_half_of_the_voxels_is_refused(tmp_path: Path, name: str) -> None:
    """A truncated dim, or a datatype that lies, would be read as other voxels."""
    content = save_placed(tmp_path / "b.nii", dim={3: 5}).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=r"holds more voxels than the \(20, 24, 5\) of float32"):
        nifti.read_volume(tmp_path / name)


def test_padding_behind_the_voxels_does_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", random_data(HEAD_SHAPE), HEAD_AFFINE)
    path.write_bytes(path.read_bytes() + bytes(512))
    np.testing.assert_array_equal(nifti.read_volume(path).data, random_data(HEAD_SHAPE))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_the_content_says_what_is_compressed(tmp_path: Path, name: str) -> None:
    other = save(tmp_path / ("b.nii.gz" if name == "a.nii" else "b.nii"), random_data(HEAD_SHAPE), HEAD_AFFINE)
    other.rename(tmp_path / name)
    np.testing.assert_array_equal(nifti.read_volume(tmp_path / name).data, random_data(HEAD_SHAPE))


@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_is_written_has_the_format_of_its_reference(tmp_path: Path, name: str, version: Any) -> None:
    image = version(random_data(HEAD_SHAPE), HEAD_AFFINE)
    nib.save(image, tmp_path / name)
    volume = nifti.read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.data, random_data(HEAD_SHAPE))
    nifti.write_volume(tmp_path / f"out-{name}", volume.data, like=tmp_path / name, descrip="synthetic PD")
    written = nib.load(tmp_path / f"out-{name}")
    assert type(written) is version
    np.testing.assert_array_equal(written.affine, image.affine)
    np.testing.assert_allclose(written.get_fdata(), volume.data, atol=nifti.WRITTEN_STEP)


def test_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(random_data(HEAD_SHAPE), HEAD_AFFINE), tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"one half of a pair \.hdr and \.img"):
        nifti.read_grid(tmp_path / "a.nii")


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
