"""The built-in data as files: what is written, and that it is what it says."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from agi_core.data.phantom.anatomy import ANATOMIES, HEAD_CENTRE_MM, rotation_matrix
from agi_core.data.phantom.built_in import folder_name
from agi_core.data.phantom.scanner import SLICES, Grid
from agi_core.data.phantom.subject import scan_subject
from agi_core.data.phantom.tree import parse_sites, phantom_matches, write_phantom
from agi_core.data.phantom.tumour import CORE, ENHANCING, OEDEMA
from agi_core.data.scans import Scans, discover
from agi_core.errors import ConfigError, RunError

IXI_SITES = {"Guys": 2, "HH": 1}
BRATS_SITES = {"A": 1, "north": 1}
AFFINE = np.array([[1.5, 0, 0, -95.25], [0, 1.75, 0, -129.125], [0, 0, 5, -33.5], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def ixi_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("phantom") / "new" / "ixi"
    write_phantom(data_dir, layout="ixi", sites=IXI_SITES, seed=0)
    return data_dir


@pytest.fixture(scope="module")
def brats_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("phantom") / "brats"
    data_dir.mkdir()  # an empty folder is taken
    write_phantom(data_dir, layout="brats", sites=BRATS_SITES, seed=0)
    return data_dir


def files(data_dir: Path) -> list[str]:
    return sorted(path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*") if path.is_file())


def voxels(path: Path) -> NDArray[Any]:
    return np.asarray(nibabel.load(path).dataobj)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_ixi_tree(ixi_dir: Path) -> None:
    subjects = ("IXI700-Guys-1000", "IXI701-Guys-1001", "IXI702-HH-1000")
    scans = [f"IXI-{m}/{subject}-{m}.nii.gz" for subject in subjects for m in ("T1", "T2", "PD")]
    assert files(ixi_dir) == sorted([*scans, "phantom.json", "truth.csv"])
    found = discover(Scans(ixi_dir, "ixi"), ("T1", "T2", "PD"))
    assert [(subject.id, subject.site) for subject in found.subjects] == [
        ("IXI700", "Guys"),
        ("IXI701", "Guys"),
        ("IXI702", "HH"),
    ]


def test_brats_tree(brats_dir: Path) -> None:
    subjects = ("BraTS-GLI-90001-000", "BraTS-GLI-90002-000")
    names = ("t1n", "t1c", "t2w", "t2f", "seg")
    scans = [f"{subject}/{subject}-{name}.nii.gz" for subject in subjects for name in names]
    assert files(brats_dir) == sorted([*scans, "phantom.json", "partitioning.csv", "truth.csv"])
    assert table(brats_dir / "partitioning.csv") == [
        {"Partition_ID": "A", "Subject_ID": "BraTS-GLI-90001-000"},
        {"Partition_ID": "north", "Subject_ID": "BraTS-GLI-90002-000"},
    ]
    found = discover(Scans(brats_dir, "brats", brats_dir / "partitioning.csv"), ("t1n", "t1c", "t2w", "t2f"))
    assert [subject.site for subject in found.subjects] == ["A", "north"]


def test_every_scan_has_the_geometry_and_says_that_it_is_synthetic(ixi_dir: Path, brats_dir: Path) -> None:
    for path in [*ixi_dir.rglob("*.nii.gz"), *brats_dir.rglob("*.nii.gz")]:
        image = nibabel.load(path)
        assert image.shape == (128, 128, 20)
        assert image.get_data_dtype() == (np.uint8 if path.name.endswith("-seg.nii.gz") else np.int16)
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
        assert b"SYNTHETIC" in image.header["descrip"].item()
    for data_dir in (ixi_dir, brats_dir):
        marker = json.loads((data_dir / "phantom.json").read_text())
        anatomies = {row["anatomy"] for row in table(data_dir / "truth.csv")}
        assert (marker["synthetic"], marker["anatomies"], marker["seed"]) == (True, len(anatomies), 0)


def test_a_subject_is_the_same_whoever_else_is_there(ixi_dir: Path) -> None:
    alone = scan_subject(layout="ixi", site="HH", index=0, seed=0, grid=SLICES)
    other_seed = scan_subject(layout="ixi", site="HH", index=0, seed=1, grid=SLICES)
    for modality, image in alone.images.items():
        stored = voxels(ixi_dir / f"IXI-{modality}" / f"IXI702-HH-1000-{modality}.nii.gz")
        np.testing.assert_array_equal(stored, image)
        assert np.mean(stored == other_seed.images[modality]) < 0.2


def test_every_subject_has_a_known_anatomy(ixi_dir: Path, brats_dir: Path) -> None:
    for data_dir in (ixi_dir, brats_dir):
        rows = table(data_dir / "truth.csv")
        assert {row["anatomy"] for row in rows} <= {*ANATOMIES}
        assert {row["site"] for row in rows} <= {"Guys", "HH", "A", "north"}


def test_recorded_pose_is_the_one_between_t1_and_pd(ixi_dir: Path) -> None:
    for row in table(ixi_dir / "truth.csv"):
        assert all(float(row[f"T2PD_{column}"]) == 0 for column in ("rx_deg", "tx_mm", "tz_mm"))
        t1, pd = (edges(ixi_dir / f"IXI-{m}" / f"{row['subject']}-{m}.nii.gz") for m in ("T1", "PD"))
        as_recorded = correlation(moved_back(t1, row, sign=1), pd)
        assert as_recorded > correlation(t1, pd) + 0.02
        assert as_recorded > correlation(moved_back(t1, row, sign=-1), pd) + 0.02


def edges(path: Path) -> NDArray[np.float64]:
    contrast = np.log(voxels(path) + 50.0)  # else bright CSF is most of what is seen
    return np.asarray(ndimage.gaussian_gradient_magnitude(contrast, (1, 1, 0)))


def moved_back(t1: NDArray[np.float64], row: Mapping[str, str], *, sign: int) -> NDArray[np.float64]:
    """T1 in the pose of PD: what PD sees at q, T1 sees at p with R (p - c) + c + t = q."""
    rotation = rotation_matrix(sign * np.array([float(row[f"T1_r{axis}_deg"]) for axis in "xyz"]))
    shift_mm = sign * np.array([float(row[f"T1_t{axis}_mm"]) for axis in "xyz"])
    to_t1 = np.eye(4)
    to_t1[:3, :3] = rotation.T
    to_t1[:3, 3] = HEAD_CENTRE_MM - rotation.T @ (HEAD_CENTRE_MM + shift_mm)
    index = np.linalg.inv(AFFINE) @ to_t1 @ AFFINE
    return np.asarray(ndimage.affine_transform(t1, index[:3, :3], index[:3, 3], order=1))


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    middle = np.s_[20:-20, 15:-15, 3:-3]
    return float(np.corrcoef(a[middle].ravel(), b[middle].ravel())[0, 1])


def test_head_is_upright(ixi_dir: Path) -> None:
    """The eyes are anterior and low, the brain is higher than wide at the top: array axes run right, anterior, up."""
    t2 = voxels(ixi_dir / "IXI-T2" / "IXI700-Guys-1000-T2.nii.gz").astype(float)
    head = t2 > 0.15 * np.quantile(t2, 0.99)
    area = head.sum(axis=(0, 1))
    assert area[-1] < 0.8 * area[8]  # the vertex is small
    face, occiput = t2[:, 100:, 0], t2[:, :28, 0]
    assert np.quantile(face, 0.99) > 1.2 * np.quantile(occiput, 0.99)  # vitreous is bright in T2


def test_brats_is_stripped_alike_and_its_tumour_lies_in_the_brain(brats_dir: Path) -> None:
    for subject_dir in sorted(path for path in brats_dir.iterdir() if path.is_dir()):
        scan = {
            name: voxels(subject_dir / f"{subject_dir.name}-{name}.nii.gz") for name in ("t1n", "t1c", "t2w", "t2f")
        }
        labels = voxels(subject_dir / f"{subject_dir.name}-seg.nii.gz")
        brain = scan["t1n"] > 0
        assert 0.1 < brain.mean() < 0.5
        for image in scan.values():
            np.testing.assert_array_equal(image > 0, brain)
        assert set(np.unique(labels)) == {0, CORE, OEDEMA, ENHANCING}
        assert brain[labels > 0].all()
        healthy = np.median(scan["t2f"][brain & (labels == 0)])
        assert np.median(scan["t2f"][labels == OEDEMA]) > 1.3 * healthy
        gain = {name: np.median(scan[name][brain & (labels == 0)]) for name in ("t1n", "t1c")}
        uptake = np.median(scan["t1c"][labels == ENHANCING]) / gain["t1c"]
        assert uptake > 1.3 * np.median(scan["t1n"][labels == ENHANCING]) / gain["t1n"]


def test_isotropic_grid(tmp_path: Path) -> None:
    write_phantom(tmp_path / "a", layout="ixi", sites={"IOP": 1}, seed=2, isotropic=True)
    image = nibabel.load(tmp_path / "a" / "IXI-PD" / "IXI700-IOP-1000-PD.nii.gz")
    assert image.shape == (128, 144, 112)
    assert image.header.get_zooms() == (1.5, 1.5, 1.5)
    assert phantom_matches(tmp_path / "a", layout="ixi", sites={"IOP": 1}, seed=2, isotropic=True)
    assert not phantom_matches(tmp_path / "a", layout="ixi", sites={"IOP": 1}, seed=2)


def test_matching_set_is_recognised(ixi_dir: Path, tmp_path: Path) -> None:
    assert phantom_matches(ixi_dir, layout="ixi", sites=IXI_SITES, seed=0)
    assert not phantom_matches(ixi_dir, layout="ixi", sites=IXI_SITES, seed=1)
    assert not phantom_matches(ixi_dir, layout="ixi", sites={"Guys": 2}, seed=0)
    assert not phantom_matches(ixi_dir, layout="brats", sites=IXI_SITES, seed=0)
    assert not phantom_matches(tmp_path, layout="ixi", sites=IXI_SITES, seed=0)
    (tmp_path / "phantom.json").write_text("{broken")
    assert not phantom_matches(tmp_path, layout="ixi", sites=IXI_SITES, seed=0)


def test_progress_is_told_and_an_interrupted_set_leaves_nothing(tmp_path: Path) -> None:
    told = []

    def stop_at_first(done: int, total: int) -> None:
        told.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "set", layout="ixi", sites={"Guys": 2}, seed=0, on_subject=stop_at_first)
    assert told == [(1, 2)]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_phantom(tmp_path, layout="ixi", sites={"Guys": 1}, seed=0)
    assert files(tmp_path) == ["note.txt"]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        write_phantom(tmp_path / "file" / "set", layout="ixi", sites={"Guys": 1}, seed=0)


@pytest.mark.parametrize(
    ("layout", "sites", "message"),
    [
        ("dicom", {"Guys": 1}, "no layout 'dicom'"),
        ("ixi", {}, "at least one site"),
        ("ixi", {"Guys": 0}, "at least one site"),
        ("ixi", {"site_1": 1}, "cannot name the site 'site_1'"),
        ("brats", {"../A": 1}, "cannot name the site"),
    ],
)
def test_what_cannot_be_written_is_refused(layout: Any, sites: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        write_phantom(tmp_path / "set", layout=layout, sites=sites, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_sites_are_read_in_order() -> None:
    sites = parse_sites("Guys:14, HH:10,IOP:6")
    assert list(sites.items()) == [("Guys", 14), ("HH", 10), ("IOP", 6)]


@pytest.mark.parametrize("text", ["", "Guys", "Guys:", "Guys:0", "Guys:-1", "Guys:1.5", "Guys:1,,HH:1", "a/b:1", ":3"])
def test_bad_sites_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME:COUNT"):
        parse_sites(text)


def test_a_site_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="HH is there twice"):
        parse_sites("HH:1,HH:2")


def test_grid_is_centred_on_the_head() -> None:
    for grid in (SLICES, Grid((5, 5, 5), (1.0, 2.0, 3.0))):
        middle = grid.affine @ [*(np.array(grid.shape) - 1) / 2, 1]
        np.testing.assert_allclose(middle[:3], HEAD_CENTRE_MM)


def test_other_sites_have_another_folder() -> None:
    names = [folder_name(sites) for sites in ({"A": 12}, {"A1": 2}, {"A": 1, "2": 1}, {"A": 1, "B2": 1}, {"A": 121})]
    assert names[0] == "A12"
    assert len({*names}) == len(names)
