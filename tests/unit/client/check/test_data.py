"""What `--check` reads of the scans."""

import sys
from pathlib import Path

import pytest

from agi_core.config.schema import Task
from agi_core.errors import DataError
from client.check.data import check_data
from client.check.rows import CheckRow, CheckState
from client.site.file import read_deployed_site
from client.site.images import images_of
from client.site.opened import open_site
from tests.support.brats_tree import labels_of, save, write_subject
from tests.support.requests_by_hand import deployed_site
from tests.support.small_data import write_ixi


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_byte_is_read_once_and_the_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir, scenario = write_ixi(tmp_path / "ixi", {"Guys": 4}), "T1,T2:PD"
    site = read_deployed_site(deployed_site(tmp_path, data_dir, rules="policy: {minimum_subjects: 1}\n"))
    Path(site.state_dir).mkdir()
    list(check_data(site, scenario))  # modules are read once too
    before = bytes_read()
    rows = check_data(site, scenario)
    while True:
        try:
            next(rows)
        except StopIteration as end:
            _, subjects, scans = end.value
            break
    size = sum(path.stat().st_size for path in data_dir.glob("*/*"))
    assert size <= bytes_read() - before < 1.1 * size
    monkeypatch.setattr("client.site.images.read_volume", None)  # a start after `--check` reads no scan again
    assert len(images_of(Path(site.state_dir), subjects, site=site.site)) == 4
    assert len(scans) == 12


def test_a_test_subject_who_is_not_there_would_train(tmp_path: Path) -> None:
    """Whoever lacks a modality is there, and so is who was tested before and is withdrawn or has another name."""
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 4})
    for modality in ("T1", "T2"):
        (data_dir / f"IXI-{modality}" / f"IXI100-Guys-1100-{modality}.nii.gz").unlink()
    path = deployed_site(tmp_path, data_dir, rules="policy: {minimum_subjects: 1}\n")
    text = path.read_text()

    def rows() -> list[CheckRow]:
        return [row for row in check_data(read_deployed_site(path), "T1,T2:PD") if row.state == CheckState.FAILED]

    path.write_text(text.replace("layout: ixi", "layout: ixi, test_subjects: [IXI100, IXI102, IXl103]"))
    (row,) = rows()
    assert row.found == "data.test_subjects names IXl103, who is not there"
    with pytest.raises(DataError, match=r"data.test_subjects names IXl103, and nobody in .* is called so; correct it"):
        _ = open_site(path).scans(Task(scenario="T1,T2:PD")).subjects
    assert not (tmp_path / "state" / "split.json").exists()

    path.write_text(text.replace("layout: ixi", "layout: ixi, test_subjects: [IXI100, IXI102, IXI103]"))
    assert not rows()
    assert {"IXI102", "IXI103"} <= {s.id for s in open_site(path).scans(Task(scenario="T1,T2:PD")).subjects.test}
    for scan in data_dir.glob("*/IXI103-*"):
        scan.unlink()
    assert not rows()


VOCABULARY, SINGLE = "T1,T2,PD,FLAIR:any", "T1:T2"


def test_modalities_that_are_offered_and_never_found_together_are_named(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 2})
    for number, modality in ((100, "T1"), (101, "T2")):
        (data_dir / f"IXI-{modality}" / f"IXI{number}-Guys-{1000 + number}-{modality}.nii.gz").unlink()
    path = deployed_site(tmp_path, data_dir, rules="policy: {minimum_subjects: 2}\n")
    path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, modalities: [T1, T2, PD]"))
    rows = [row for row in check_data(read_deployed_site(path), "T1,T2,PD:any") if row.what == "modalities"]
    assert [row.state for row in rows] == [CheckState.PASSED, CheckState.WARNING]
    assert "no visit has T1 with T2: this site sits out" in rows[1].found


def test_three_that_are_found_two_at_a_time_are_named_together(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 3})
    for number, modality in ((100, "T1"), (101, "T2"), (102, "PD")):
        (data_dir / f"IXI-{modality}" / f"IXI{number}-Guys-{1000 + number}-{modality}.nii.gz").unlink()
    path = deployed_site(tmp_path, data_dir, rules="policy: {minimum_subjects: 2}\n")
    path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, modalities: [T1, T2, PD]"))
    rows = [row for row in check_data(read_deployed_site(path), "T1,T2,PD:any") if row.what == "modalities"]
    assert "no visit has T1 with T2 with PD: this site sits out" in rows[1].found


def test_scans_of_a_modality_that_is_not_offered_are_not_read(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 3})
    (data_dir / "IXI-PD" / "IXI100-Guys-1100-PD.nii.gz").write_bytes(b"")
    (data_dir / "IXI-T1" / "IXI101-Guys-1101-T1.nii.gz").unlink()  # T2 and PD are left: one that is offered
    path = deployed_site(tmp_path, data_dir, rules="policy: {minimum_subjects: 2}\n")
    everything = [row.state for row in check_data(read_deployed_site(path), "T1,T2,PD:any")]
    path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, modalities: [T1, T2]"))
    offered = [*check_data(read_deployed_site(path), "T1,T2,PD:any")]
    assert CheckState.FAILED in everything
    assert all(row.state == CheckState.PASSED for row in offered)
    assert "2 of 2 subjects are readable and fit together" in [row.found for row in offered]


@pytest.mark.parametrize(
    ("declared", "scenario", "state", "found", "fix"),
    [
        (
            "",
            VOCABULARY,
            CheckState.WARNING,
            "T1 4, T2 4, PD 0, FLAIR 0; no data.modalities; of 2 subjects or more: T1, T2",
            "write modalities: [T1, T2] under data in the site file",
        ),
        (
            ", modalities: [T1, T2]",
            VOCABULARY,
            CheckState.PASSED,
            "T1 4, T2 4, PD 0, FLAIR 0; offered by data.modalities: T1, T2",
            "",
        ),
        (
            ", modalities: [T1, PD]",
            VOCABULARY,
            CheckState.FAILED,
            "data.modalities names PD, which no subject has (T1 4, T2 4, PD 0, FLAIR 0)",
            "take it out of data.modalities in the site file",
        ),
        (
            ", modalities: [T1, T2, T2W]",
            SINGLE,
            CheckState.FAILED,
            "data.modalities names T2W, which no subject has (T1 4, T2 4)",
            "take it out of data.modalities in the site file",
        ),
        (
            ", modalities: [T1, PD]",
            "T2:T1",
            CheckState.FAILED,
            "data.modalities names PD, which no subject has (T2 4, T1 4)",
            "take it out of data.modalities in the site file",
        ),
    ],
)
def test_the_site_offers_what_its_subjects_have(
    tmp_path: Path, declared: str, scenario: str, state: CheckState, found: str, fix: str
) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 4})
    for path in data_dir.glob("IXI-PD/*"):
        path.unlink()
    path = deployed_site(tmp_path, data_dir, rules="policy: {minimum_subjects: 2}\n")
    path.write_text(path.read_text().replace("layout: ixi", f"layout: ixi{declared}"))
    rows = [*check_data(read_deployed_site(path), scenario)]
    (row,) = [row for row in rows if row.what == "modalities"]
    assert (row.state, row.found) == (state, found)
    assert fix in row.fix
    assert all(row.state != CheckState.FAILED for row in rows if row.what != "modalities")


def test_a_segmentation_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    names = [write_subject(tmp_path / "brats", number, modalities=("t1n", "t2f")) for number in (1, 2)]
    path = deployed_site(tmp_path, tmp_path / "brats", rules="policy: {minimum_subjects: 1}\n")
    path.write_text(path.read_text().replace("layout: ixi", "layout: brats"))

    def found() -> list[str]:
        rows = [*check_data(read_deployed_site(path), "t1n:t2f")]
        return [row.found for row in rows if row.what == "segmentations"]

    assert found() == []
    save(tmp_path / "brats" / names[1] / f"{names[1]}-seg.nii.gz", labels_of(2) * 2)
    (told,) = found()
    assert told.startswith(f"1 cannot be used (first: {tmp_path / 'brats' / names[1]}")


@pytest.mark.parametrize(
    ("scenario", "found", "fix"),
    [
        (
            SINGLE,
            "T1:T2 needs T2, and data.modalities offers T1, PD alone",
            "add it to data.modalities in the site file",
        ),
        (
            "T1,T2:any",
            "data.modalities offers T1 of T1, T2; a site needs two to take part",
            "add one to data.modalities in the site file, or check the study you were told",
        ),
    ],
)
def test_what_a_study_needs_is_offered(tmp_path: Path, scenario: str, found: str, fix: str) -> None:
    path = deployed_site(tmp_path, write_ixi(tmp_path / "ixi", {"Guys": 4}), rules="policy: {minimum_subjects: 2}\n")
    path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, modalities: [T1, PD]"))
    (row,) = [row for row in check_data(read_deployed_site(path), scenario) if row.what == "modalities"]
    assert row.state == CheckState.FAILED
    assert found in row.found
    assert fix in row.fix
