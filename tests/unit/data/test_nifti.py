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
from tests.support.placed_scans import HEAD_AFFINE, HEAD_SHAPE, random_data, read_or_refuse, save_placed
from tests.support.written_volume import write_volume

ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(axes, flips, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for flips in product((0, 1), repeat=3)
]
OBLIQUE_AFFINE = np.array(
    [[1.47, -0.17, 0.35, -60.0], [0.20, 1.72, -0.61, -80.0], [-0.10, 0.21, 4.95, 12.5], [0, 0, 0, 1]]
)


SHARED_DATA_DIR = Path(os.environ.get("AGI_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


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

    write_volume(tmp_path / "out.nii.gz", volume.data, like=path, descrip="test")
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
    write_volume(tmp_path / "b.nii", np.full((2, 2, 2), value, np.float32), like=like, descrip="synthetic PD 0..1")
    image = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(image.get_fdata(), value, atol=nifti.WRITTEN_STEP / 2 + 1e-6)
    assert image.header["descrip"].item() == b"synthetic PD 0..1"


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
    write_volume(tmp_path / "b.nii.gz", data[..., 0], like=path, descrip="")
    assert nib.load(tmp_path / "b.nii.gz").shape == (3, 4, 5)


def test_nothing_that_may_name_a_person_is_copied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(random_data((2, 3, 4)), np.eye(4))
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes().count(b"DOE^JANE") == 5
    write_volume(tmp_path / "b.nii", random_data((2, 3, 4)), like=tmp_path / "a.nii", descrip="synthetic T2")
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
        write_volume(tmp_path / "b.mgz", random_data((2, 2, 2)), like=like, descrip="")
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        write_volume(tmp_path / "b.nii", random_data((2, 2, 2)) - 1, like=like, descrip="")
    with pytest.raises(ValueError, match="on the grid"):
        write_volume(tmp_path / "b.nii", random_data((2, 2, 3)), like=like, descrip="")
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
    "empty": (lambda path: path.write_bytes(b""), r"not a readable NIfTI file \(it is empty\)\. Copy or download"),
    "web page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>Log in</html>"), "it is a web page"),
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
    write_volume(tmp_path / f"out-{name}", volume.data, like=tmp_path / name, descrip="synthetic PD")
    written = nib.load(tmp_path / f"out-{name}")
    assert type(written) is version
    np.testing.assert_array_equal(written.affine, image.affine)
    np.testing.assert_allclose(written.get_fdata(), volume.data, atol=nifti.WRITTEN_STEP)


def test_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(random_data(HEAD_SHAPE), HEAD_AFFINE), tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"one half of a pair \.hdr and \.img"):
        nifti.read_grid(tmp_path / "a.nii")


def test_a_path_that_the_system_does_not_look_at_is_refused(tmp_path: Path) -> None:
    """A name that is too long, as a folder that cannot be entered."""
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)|does not exist"):
        nifti.read_volume(tmp_path / f"{'x' * 300}.nii")
