"""DICOM in and out, against SimpleITK as another reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from agi_core import known_range
from agi_core.__main__ import main
from agi_core.data.dicom import STORED_ONE, marked, read_series, write_derived
from agi_core.data.nifti import read_volume
from agi_core.errors import ConfigError, DataError, RunError
from agi_core.known_range import KnownRange, names_of
from agi_core.run.error_model import NAME as ERROR_MODEL
from agi_core.run.error_model import write_error_model
from agi_core.run.own_weights import write_own_weights
from agi_core.uncertainty import ErrorModel
from tests.support.dicom_series import head, write_series
from tests.support.finished_run import finished_run
from tests.support.written_volume import write_volume


def changed(folder: Path, change: Callable[[Any, int], None]) -> None:
    for path in sorted(folder.iterdir()):
        image = pydicom.dcmread(path)
        change(image, int(image.InstanceNumber))
        image.save_as(path)


def by_itk(folder: Path) -> tuple[Any, Any]:
    """Voxels (columns, rows, slices) and affine in RAS+, by SimpleITK."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


def corners(shape: tuple[int, ...], affine: Any) -> Any:
    index = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)
    return affine[:3, :3] @ index + affine[:3, 3:]


def test_a_series_is_read_as_another_reader_reads_it(tmp_path: Path) -> None:
    series = read_series(write_series(tmp_path / "s", head(1), RescaleSlope=2, RescaleIntercept=-5))
    data, affine = by_itk(tmp_path / "s")
    assert series.data.shape == data.shape == (40, 44, 9)
    np.testing.assert_allclose(corners(data.shape, series.affine), corners(data.shape, affine), atol=0.01)
    np.testing.assert_array_equal(series.data, data)


def test_what_is_written_lies_where_it_was_read(tmp_path: Path) -> None:
    """The patient's own study, a series of its own, and the geometry to 0.01 mm by another reader."""
    series = read_series(write_series(tmp_path / "s", head(1)))
    nifti_path = series.write_nifti(tmp_path / "s.nii")
    volume = read_volume(nifti_path)
    scaled = volume.data / volume.data.max()
    write_volume(tmp_path / "made.nii", scaled, like=nifti_path, descrip="")
    write_derived(series, tmp_path / "made.nii", tmp_path / "out", target="PD", sources="T1, T2", mark=False)

    data, affine = by_itk(tmp_path / "out")
    np.testing.assert_allclose(corners(data.shape, affine), corners(data.shape, series.affine), atol=0.01)
    np.testing.assert_allclose(data / STORED_ONE, series.data / series.data.max(), atol=1e-4)
    images = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").iterdir())]
    assert len({image.SOPInstanceUID for image in images}) == 9
    source_uids = {image.SOPInstanceUID for image in series.slices}
    for image, source in zip(images, series.slices, strict=True):
        for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert image[name] == source[name]
        assert image.SeriesInstanceUID == images[0].SeriesInstanceUID != source.SeriesInstanceUID
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert image.SeriesDescription == "SYNTHETIC - not for diagnosis PD"
        assert "T1, T2" in image.DerivationDescription
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID in source_uids
        assert (image.WindowCenter, image.WindowWidth) == (5000, 10000)
        assert "OperatorsName" not in image
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_derived(series, tmp_path / "made.nii", tmp_path / "out", target="PD", sources="T1", mark=False)


def test_a_series_says_that_its_sources_are_out_of_the_known_range(tmp_path: Path) -> None:
    """As much of it as DICOM has room for: 64 characters of a series' description, 1024 of a derivation's."""
    series = read_series(write_series(tmp_path / "s", head(1)))
    nifti_path = series.write_nifti(tmp_path / "s.nii")
    write_volume(tmp_path / "made.nii", read_volume(nifti_path).data.clip(0, 1), like=nifti_path, descrip="")
    write_derived(
        series,
        tmp_path / "made.nii",
        tmp_path / "out",
        target="T1w[ce-gadolinium]",
        sources="T1," * 500,
        mark=False,
        reasons=["the head is cut", "it is tilted"],
    )
    image = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    assert image.SeriesDescription == "OUT OF KNOWN RANGE: SYNTHETIC - not for diagnosis T1w[ce-gadolin"
    assert len(image.DerivationDescription) == 1024
    assert image.ImageComments.splitlines() == [
        "SYNTHETIC - not for diagnosis",
        "out of known range: the head is cut",
        "out of known range: it is tilted",
    ]


def test_a_series_that_cannot_be_written_to_its_end_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of it would look like a whole, shorter one."""
    series = read_series(write_series(tmp_path / "s", head(1)))
    nifti_path = series.write_nifti(tmp_path / "s.nii")
    write, written = pydicom.dcmwrite, []

    def full(path: Path, *more: Any, **options: Any) -> None:
        written.append(path)
        if len(written) == 5:
            raise OSError(28, "No space left on device")
        write(path, *more, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", full)
    with pytest.raises(RunError, match="disk is full"):
        write_derived(series, nifti_path, tmp_path / "out", target="PD", sources="T1", mark=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [0, 100, 300])
def test_a_slice_that_was_cut_off_is_named(tmp_path: Path, size: int) -> None:
    last = sorted(write_series(tmp_path / "s", head(1)).iterdir())[-1]
    (tmp_path / "s" / "notes.txt").write_text("no image")
    assert len(read_series(tmp_path / "s").slices) == 9
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"{last.name} is empty, cut off or damaged"):
        read_series(tmp_path / "s")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about values
@pytest.mark.parametrize("part", range(5))
def test_any_damage_is_refused_or_does_not_matter(tmp_path: Path, part: int) -> None:
    path = sorted(write_series(tmp_path / "s", head(1, (12, 10, 4))).iterdir())[1]
    whole, rng = path.read_bytes(), np.random.default_rng(part)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in rng.integers(128, len(whole) - 2 * 12 * 10, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            series = read_series(tmp_path / "s")
        except DataError:
            continue
        assert series.data.shape == (10, 12, 4)


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_slope_is_no_slope(tmp_path: Path, value: str | None) -> None:
    plain = read_series(write_series(tmp_path / "plain", head(1)))
    empty = read_series(write_series(tmp_path / "s", head(1), RescaleSlope=value, RescaleIntercept=value))
    np.testing.assert_array_equal(empty.data, plain.data)


def test_the_mark_is_in_the_pixels() -> None:
    pixels = np.full((128, 160), 77, dtype="<u2")
    result = marked(pixels)
    assert set(np.unique(result)) == {0, 77, STORED_ONE}
    assert (result != 77).any(axis=0).sum() > 70
    assert (pixels == 77).all()
    assert marked(pixels[:8, :20]).shape == (8, 20)


def moved(image: Any, number: int) -> None:
    if number == 5:
        image.ImagePositionPatient = [x + 0.3 * y for x, y in zip(image.ImagePositionPatient, (0, 0, 4), strict=True)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda image, n: setattr(image, "SOPClassUID", f"{image.SOPClassUID}.1"), "enhanced MR"),
        (lambda image, n: setattr(image, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "CT Image Storage, not MR"),
        (lambda image, n: setattr(image, "SeriesInstanceUID", f"1.2.{n % 2}"), "slices of 2 series"),
        (lambda image, n: setattr(image, "EchoTime", str(20 + 60 * (n % 2))), "mixes images: EchoTime is 20 and 80"),
        (lambda image, n: setattr(image, "PixelSpacing", [1, 1 + n % 2]), "mixes images: PixelSpacing"),
        (lambda image, n: setattr(image, "PhotometricInterpretation", "MONOCHROME1"), "MONOCHROME1: only images whose"),
        (moved, "unevenly spaced, between image 4 and image 5"),
        (lambda image, n: delattr(image, "ImagePositionPatient"), "cannot be read"),
    ],
)
def test_what_is_no_single_series_is_refused_by_name(
    tmp_path: Path, change: Callable[[Any, int], None], sentence: str
) -> None:
    changed(write_series(tmp_path / "s", head(1)), change)
    with pytest.raises(DataError) as refusal:
        read_series(tmp_path / "s")
    assert sentence in str(refusal.value)


def test_missing_and_doubled_slices_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "s", head(1))
    paths = {int(pydicom.dcmread(path).InstanceNumber): path for path in (tmp_path / "s").iterdir()}
    fifth = paths[5].read_bytes()
    paths[5].unlink()
    with pytest.raises(DataError, match=r"missing between image 4 and image 6 \(8\.00 mm, elsewhere 4\.00\)"):
        read_series(tmp_path / "s")
    paths[5].write_bytes(fifth)
    (tmp_path / "s" / "copy").write_bytes(fifth)
    with pytest.raises(DataError, match="two images of one place, between image 5 and image 5"):
        read_series(tmp_path / "s")


def test_a_tilted_gantry_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gantry tilt"):
        read_series(write_series(tmp_path / "s", head(1), tilt_mm=0.5))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="holds no DICOM image"):
        read_series(tmp_path / "empty")


def test_the_command_line_from_series_to_series(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    series = {m: write_series(tmp_path / m, head(seed), study="1.2.3") for seed, m in enumerate(("T1", "T2"))}
    sources = [f"--source={m}={folder}" for m, folder in series.items()]
    command = ["synthesize", "--run", str(tmp_path / "run"), *sources]
    assert main([*command, "--out", str(tmp_path / "pd"), "--mark"]) == 0
    assert main([*command, "--out", str(tmp_path / "pd.nii.gz")]) == 0
    assert main([*command, "--out", str(tmp_path / "other.nii"), "--mark"]) == 2
    made, nifti = read_series(tmp_path / "pd"), read_volume(tmp_path / "pd.nii.gz")
    assert made.slices[0].BurnedInAnnotation == "YES"
    assert made.slices[0].StudyInstanceUID == "1.2.3"
    np.testing.assert_allclose(made.affine, read_series(series["T2"]).affine, atol=1e-4)
    unmarked = made.data[:, 20:] / STORED_ONE
    assert unmarked.std() > 0.01
    assert sorted(made.data.shape) == sorted(nifti.data.shape)


def test_the_command_line_tells_the_known_range_and_the_style(tmp_path: Path) -> None:
    network = finished_run(tmp_path / "run")
    own = {"head.bias": np.full(1, 0.9, dtype=np.float32)}
    write_own_weights(tmp_path / "run" / "sites" / "HH" / "heads" / "x.safetensors", own, network=network)
    usual = dict.fromkeys(names_of(network), 0.5) | {"head: volume, litres": 99.0}
    spreads = dict.fromkeys(usual, 1e4) | {"head: volume, litres": 1.0}
    KnownRange("training", 9, usual, spreads).write(tmp_path / "run" / known_range.NAME)
    sources = [f"--source={m}={write_series(tmp_path / m, head(seed))}" for seed, m in enumerate(("T1", "T2"))]
    command = ["synthesize", "--run", str(tmp_path / "run"), *sources, "--style", "HH", "--out", str(tmp_path / "pd")]
    assert main(command) == 0
    image = pydicom.dcmread(tmp_path / "pd" / "0001.dcm")
    assert image.SeriesDescription == "OUT OF KNOWN RANGE: SYNTHETIC - not for diagnosis PD"
    assert "out of known range: head: volume, litres is" in image.ImageComments
    assert image.DerivationDescription.startswith("PD synthesised from T1, T2 (style of HH) by AGI-Fed")


def test_a_folder_that_holds_something_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = finished_run(tmp_path / "run")
    layer, counts = np.full(len(network.readout), 0.1), np.full(66, 10)
    write_error_model(tmp_path / "run" / ERROR_MODEL, ErrorModel(layer, counts, 8, 2), network=network)
    sources = [f"--source={m}={write_series(tmp_path / m, head(seed))}" for seed, m in enumerate(("T1", "T2"))]
    command = ["synthesize", "--run", str(tmp_path / "run"), *sources, "--uncertainty", str(tmp_path / "e.nii")]
    assert main([*command, "--out", str(tmp_path / "T1")]) == 2
    assert f"{tmp_path / 'T1'} is there already and not an empty folder" in capsys.readouterr().err
    assert not (tmp_path / "e.nii").exists()


def test_a_refusal_names_the_folder_of_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(tmp_path / "run")
    one, other = (write_series(tmp_path / m, head(1)) for m in ("T1", "T2"))
    sources = [f"--source=T1={one}", f"--source=T2={other}"]
    assert main(["synthesize", "--run", str(tmp_path / "run"), *sources, "--out", str(tmp_path / "pd")]) == 2
    assert f"error: {one} for T1 and {other} for T2 are the same image" in capsys.readouterr().err
