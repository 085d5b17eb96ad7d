"""Trees of empty files: discovery reads names only."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agi_core.config.schema import DataConfig
from agi_core.data import scans
from agi_core.data.scans import Discovery, Scans, Skipped
from agi_core.errors import ConfigError, DataError


def discover(
    data_dir: Path,
    *,
    layout: str,
    modalities: Sequence[str],
    sites_file: Path | None = None,
    exclude: Sequence[str] = (),
) -> Discovery:
    return scans.discover(Scans(data_dir, layout, sites_file, tuple(exclude)), modalities)


IXI = ("T1", "T2", "PD")
BRATS = ("t1n", "t1c", "t2w", "t2f")
BIDS = ("T1w", "T2w")


def tree(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def ixi(visit: str, modalities: Iterable[str] = IXI, *, folder: str = "") -> list[str]:
    return [f"{folder}{visit}-{modality}.nii.gz" for modality in modalities]


def brats(visit: str, suffixes: Iterable[str] = BRATS, *, separator: str = "-") -> list[str]:
    return [f"{visit}/{visit}{separator}{suffix}.nii.gz" for suffix in suffixes]


def sites_of(discovery: Discovery) -> dict[str, str]:
    return {subject.id: subject.site for subject in discovery.subjects}


# IXI


@pytest.mark.parametrize("pattern", ["{}-{}.nii.gz", "{}_{}.nii.gz", "IXI-{1}/{0}-{1}.nii.gz", "IXI/{1}/{0}-{1}.nii"])
def test_ixi_flat_or_in_folders(tmp_path: Path, pattern: str) -> None:
    visits = ("IXI013-HH-1212", "IXI002-Guys-0828")
    tree(tmp_path, [pattern.format(visit, modality) for visit in visits for modality in IXI])
    discovery = discover(tmp_path, layout="ixi", modalities=IXI)
    assert sites_of(discovery) == {"IXI002": "Guys", "IXI013": "HH"}
    session = discovery.subjects[0].sessions[0]
    assert session.name == "0828"
    assert session.paths == {m: tmp_path / pattern.format("IXI002-Guys-0828", m) for m in IXI}
    assert discovery.skipped == ()


def test_everything_left_out_is_counted_with_its_reason(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828", [*IXI, "MRA", "DTI-00", "DTI-01"]))
    tree(tmp_path, ixi("IXI012-HH-1211", ["T1", "T2"]) + ixi("IXI013-HH-1212", ["T1", "T2"]) + ixi("IXI014-HH-1236"))
    tree(tmp_path, ["truth.csv", "atlas.nii.gz", "._IXI002-Guys-0828-T1.nii.gz"])
    discovery = discover(tmp_path, layout="ixi", modalities=IXI, exclude=["IXI014"])
    assert sites_of(discovery) == {"IXI002": "Guys"}
    assert Skipped("IXI012 1211", "no PD") in discovery.skipped
    assert discovery.summary().splitlines() == [
        "1 subject at 1 site: Guys 1",
        "skipped 5: excluded by data.exclude x1 (first: IXI014); no PD x2 (first: IXI012 1211); "
        "not named like IXI012-HH-1211-T1.nii.gz x2 (first: ._IXI002-Guys-0828-T1.nii.gz)",
        "scans not in the scenario: DTI x2, MRA x1",
    ]


def test_several_visits_are_one_subject_with_its_complete_sessions(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828") + ixi("IXI002-Guys-0900") + ixi("IXI002-Guys-0950", ["T1"]))
    discovery = discover(tmp_path, layout="ixi", modalities=IXI)
    assert [session.name for session in discovery.subjects[0].sessions] == ["0828", "0900"]
    assert discovery.skipped == (Skipped("IXI002 0950", "no T2, PD"),)


def test_two_files_of_one_modality_are_not_chosen_from(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828") + ixi("IXI003-Guys-0900"))
    tree(tmp_path, ["IXI-T1/IXI002-Guys-0828-T1.nii"])
    discovery = discover(tmp_path, layout="ixi", modalities=IXI)
    assert sites_of(discovery) == {"IXI003": "Guys"}
    (skipped,) = discovery.skipped
    assert skipped.reason == "several T1 in one session"
    assert "IXI-T1/IXI002-Guys-0828-T1.nii," in skipped.place
    assert skipped.place.endswith("IXI002-Guys-0828-T1.nii.gz")


def test_with_a_least_number_subjects_hold_what_they_hold(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828") + ixi("IXI003-Guys-0900", ["T1", "PD"]) + ixi("IXI004-Guys-0901", ["T2"]))
    tree(tmp_path, ["IXI-T1/IXI002-Guys-0828-T1.nii"])  # a second one
    discovery = scans.discover(Scans(tmp_path, "ixi"), IXI, least=2)
    held = {subject.id: [*subject.sessions[0].paths] for subject in discovery.subjects}
    assert held == {"IXI002": ["T2", "PD"], "IXI003": ["T1", "PD"]}
    assert [skipped.reason for skipped in discovery.skipped] == ["several T1 in one session", "no T1, PD"]


def test_a_subject_in_two_sites_is_refused_with_both_files_and_can_be_excluded(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828") + ixi("IXI002-HH-1234") + ixi("IXI003-HH-1235"))
    with pytest.raises(DataError, match=r"IXI002-Guys-0828-\w+\.nii\.gz and .*IXI002-HH-1234") as caught:
        discover(tmp_path, layout="ixi", modalities=IXI)
    assert "data.exclude=[IXI002]" in str(caught.value)
    assert sites_of(discover(tmp_path, layout="ixi", modalities=IXI, exclude=["IXI002"])) == {"IXI003": "HH"}


def test_whoever_leaves_out_everybody_is_told_so(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828") + ixi("IXI003-HH-1235"))
    with pytest.raises(ConfigError, match=r"data\.exclude leaves nobody: it names all 2 subjects of"):
        discover(tmp_path, layout="ixi", modalities=IXI, exclude=["IXI002", "IXI003"])


def test_links_to_nothing_are_skipped(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828") + ixi("IXI003-Guys-0900", ["T1", "T2"]))
    (tmp_path / "IXI003-Guys-0900-PD.nii.gz").symlink_to(tmp_path / "not-fetched")
    reasons = [item.reason for item in discover(tmp_path, layout="ixi", modalities=IXI).skipped]
    assert reasons == ["not a file (a link to nothing, or a folder that this user cannot enter?)", "no PD"]


def test_a_folder_that_cannot_be_entered_is_listed(tmp_path: Path) -> None:
    """By a process of another user where root runs the tests: it may enter any folder."""
    tree(tmp_path, [f"sub-{s}/anat/sub-{s}_{m}.nii.gz" for s in ("01", "02") for m in BIDS])
    tmp_path.chmod(0o755)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)
    (tmp_path / "sub-02" / "anat").chmod(0o744)
    program = (
        "import os; from pathlib import Path; from agi_core.data.scans import Scans, discover;"
        "os.getuid() or os.setuid(65534); found = discover(Scans(Path(), 'bids'), ('T1w', 'T2w'));"
        "print([subject.id for subject in found.subjects], {skipped.reason for skipped in found.skipped})"
    )
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path).stdout
    (tmp_path / "sub-02" / "anat").chmod(0o755)
    reason = "not a file (a link to nothing, or a folder that this user cannot enter?)"
    assert told.strip() == f"['sub-01'] {{{reason!r}}}"


# BraTS


@pytest.mark.parametrize(
    ("visit", "separator", "suffixes", "subject", "session"),
    [
        ("BraTS-GLI-00012-001", "-", BRATS, "BraTS-GLI-00012", "001"),
        ("BraTS-MEN-00004-000", "-", BRATS, "BraTS-MEN-00004", "000"),
        ("BraTS-PED-00002-000", "-", BRATS, "BraTS-PED-00002", "000"),
        ("BraTS-SSA-00002-000", "-", BRATS, "BraTS-SSA-00002", "000"),
        ("BraTS20_Training_001", "_", ("t1", "t1ce", "t2", "flair"), "BraTS20_Training_001", ""),
        ("BraTS2021_00000", "_", ("t1", "t1ce", "t2", "flair"), "BraTS2021_00000", ""),
        ("FeTS2022_00000", "_", ("t1", "t1ce", "t2", "flair"), "FeTS2022_00000", ""),
    ],
)
@pytest.mark.parametrize("parent", ["", "TrainingData"])
def test_brats_of_all_years_has_the_modality_names_of_2023(
    tmp_path: Path, parent: str, visit: str, separator: str, suffixes: tuple[str, ...], subject: str, session: str
) -> None:
    tree(tmp_path / parent, brats(visit, [*suffixes, "seg"], separator=separator))
    discovery = discover(tmp_path, layout="brats", modalities=BRATS)
    assert sites_of(discovery) == {subject: "site"}
    (found,) = discovery.subjects[0].sessions
    assert found.name == session
    assert found.paths == {
        modality: tmp_path / parent / visit / f"{visit}{separator}{suffix}.nii.gz"
        for modality, suffix in zip(BRATS, suffixes, strict=True)
    }
    assert discovery.summary() == "1 subject at 1 site: site 1"  # labels are not scans


def test_time_points_of_one_person_stay_together_through_the_site_map(tmp_path: Path) -> None:
    for visit in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000"):
        tree(tmp_path, brats(visit))
    sites_file = tmp_path / "partitioning_1.csv"
    sites_file.write_text(
        "Partition_ID,Subject_ID\n3,BraTS-GLI-00001-000\n1,BraTS-GLI-00002\n7,BraTS-GLI-00900-000\n2,BraTS-GLI-00004\n"
    )
    discovery = discover(tmp_path, layout="brats", modalities=BRATS, sites_file=sites_file, exclude=["BraTS-GLI-00002"])
    assert sites_of(discovery) == {"BraTS-GLI-00001": "site3"}
    assert [session.name for session in discovery.subjects[0].sessions] == ["000", "001"]
    assert Skipped("BraTS-GLI-00003", f"not in the site map {sites_file}") in discovery.skipped
    assert discovery.unmatched_rows == 2
    assert "rows of the site map without scans: 2" in discovery.summary()


def test_one_brats_table_serves_the_trees_of_its_years(tmp_path: Path) -> None:
    sites_file = tmp_path / "mapping.csv"
    sites_file.write_text(
        "BraTS2023;BraTS2021;BraTS2020;Cohort Name (if publicly available);"
        "Site No (represents the originating institution)\n"
        "BraTS-GLI-00000-000;BraTS2021_00000;BraTS20_Training_004;TCGA-GBM;6\n"
    )
    tree(tmp_path / "2023", brats("BraTS-GLI-00000-000"))
    tree(tmp_path / "2020", brats("BraTS20_Training_004", ("t1", "t1ce", "t2", "flair"), separator="_"))
    for year, subject in (("2023", "BraTS-GLI-00000"), ("2020", "BraTS20_Training_004")):
        discovery = discover(tmp_path / year, layout="brats", modalities=BRATS, sites_file=sites_file)
        assert sites_of(discovery) == {subject: "site6"}


def test_nobody_in_the_site_map_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path, brats("BraTS-GLI-00001-000"))
    sites_file = tmp_path / "sites.csv"
    sites_file.write_text("Partition_ID,Subject_ID\n1,BraTS-GLI-00009-000\n")
    with pytest.raises(DataError, match=r"not in the site map .*sites\.csv x1 \(first: BraTS-GLI-00001\)"):
        discover(tmp_path, layout="brats", modalities=BRATS, sites_file=sites_file)


# BIDS


def test_bids_with_and_without_sessions(tmp_path: Path) -> None:
    tree(tmp_path, [f"sub-02/anat/sub-02_{m}.nii.gz" for m in BIDS])
    tree(tmp_path, [f"sub-01/ses-{s}/anat/sub-01_ses-{s}_acq-fast_{m}.nii.gz" for s in ("1", "2") for m in BIDS])
    tree(tmp_path, ["sub-01/ses-1/func/sub-01_ses-1_bold.nii.gz", "derivatives/sub-01/anat/sub-01_T1w.nii.gz"])
    tree(tmp_path, ["sub-03/anat/sub-02_T1w.nii.gz", "sub-04/ses-1/anat/sub-04_ses-2_T1w.nii.gz"])
    tree(tmp_path, ["sub-02/anat/sub-02_FLAIR.nii.gz"])
    discovery = discover(tmp_path, layout="bids", modalities=BIDS)
    names = {subject.id: [session.name for session in subject.sessions] for subject in discovery.subjects}
    assert names == {"sub-01": ["ses-1", "ses-2"], "sub-02": [""]}
    assert set(sites_of(discovery).values()) == {"site"}
    assert [item.reason for item in discovery.skipped] == ["not named like sub-01/anat/sub-01_T1w.nii.gz"] * 4
    assert discovery.other_modalities == {"FLAIR": 1}


def test_bids_several_runs_are_not_chosen_from(tmp_path: Path) -> None:
    tree(tmp_path, ["sub-01/anat/sub-01_run-1_T1w.nii.gz", "sub-01/anat/sub-01_run-2_T1w.nii.gz"])
    tree(tmp_path, ["sub-01/anat/sub-01_T2w.nii.gz", *(f"sub-02/anat/sub-02_run-1_{m}.nii.gz" for m in BIDS)])
    discovery = discover(tmp_path, layout="bids", modalities=BIDS)
    assert list(sites_of(discovery)) == ["sub-02"]
    (skipped,) = discovery.skipped
    assert skipped.reason == "several T1w in one session"
    assert "run-1" in skipped.place
    assert "run-2" in skipped.place


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (
            ["p1/IM0001", "p1/IM0002"],
            "skipped 2: no .nii or .nii.gz file; convert it if it is a scan x2 (first: p1/IM0",
        ),
        (
            ["sub-01/mri/orig.mgz"],
            "skipped 1: no .nii or .nii.gz file; convert it if it is a scan x1 (first: sub-01/mri/",
        ),
        (["a/b/c/d/sub-01_T1w.nii.gz"], "skipped 1: more than 3 folders deep x1 (first: a/b/c/d)"),
    ],
)
def test_a_folder_without_scans_is_refused_with_what_there_is(tmp_path: Path, names: list[str], why: str) -> None:
    with pytest.raises(DataError, match=re.escape(why)):
        discover(tree(tmp_path, names), layout="bids", modalities=BIDS)


def test_bids_sites_come_from_participants_unless_a_file_is_given(tmp_path: Path) -> None:
    tree(tmp_path, [f"sub-{s}/anat/sub-{s}_{m}.nii.gz" for s in ("01", "02", "03") for m in BIDS])
    participants = tmp_path / "participants.tsv"
    participants.write_text("participant_id\tage\n")
    assert set(sites_of(discover(tmp_path, layout="bids", modalities=BIDS)).values()) == {"site"}
    participants.write_text("participant_id\tage\tSite\nsub-01\t30\tOslo\nsub-02\t31\t2\nsub-03\t32\tn/a\n")
    discovery = discover(tmp_path, layout="bids", modalities=BIDS)
    assert sites_of(discovery) == {"sub-01": "Oslo", "sub-02": "site2"}
    assert discovery.skipped == (Skipped("sub-03", f"no site in its row of the site map {participants}"),)
    other = tmp_path / "other.csv"
    other.write_text("participant_id,centre\nsub-01,A\nsub-02,A\nsub-03,B\n")
    discovery = discover(tmp_path, layout="bids", modalities=BIDS, sites_file=other)
    assert sites_of(discovery) == {"sub-01": "A", "sub-02": "A", "sub-03": "B"}


def test_a_scan_with_an_entity_that_changes_it_is_not_of_the_plain_modality(tmp_path: Path) -> None:
    tree(tmp_path, [f"sub-{s}/anat/sub-{s}_{m}.nii.gz" for s in ("01", "02", "03", "04", "05") for m in BIDS])
    for subject, modality, entities in (
        ("01", "T1w", "ce-gadolinium"),
        ("02", "T1w", "ce-gadolinium"),
        ("03", "T2w", "part-phase"),
        ("04", "T1w", "space-MNI152NLin2009cAsym_desc-brain"),
    ):
        path = tmp_path / f"sub-{subject}/anat/sub-{subject}_{modality}.nii.gz"
        path.rename(path.with_name(f"sub-{subject}_{entities}_{modality}.nii.gz"))
    discovery = discover(tmp_path, layout="bids", modalities=BIDS)
    assert list(sites_of(discovery)) == ["sub-05"]
    assert discovery.other_modalities == {
        "T1w[ce-gadolinium]": 2,
        "T1w[space-MNI152NLin2009cAsym_desc-brain]": 1,
        "T2w[part-phase]": 1,
    }
    assert "T1w[ce-gadolinium] x2" in discovery.summary()
    chosen = discover(tmp_path, layout="bids", modalities=["T1w[ce-gadolinium]", "T2w"])
    assert list(sites_of(chosen)) == ["sub-01", "sub-02"]
    assert [path.name for path in chosen.subjects[0].sessions[0].paths.values()] == [
        "sub-01_ce-gadolinium_T1w.nii.gz",
        "sub-01_T2w.nii.gz",
    ]
    for modality in ("T1w[ce-other]", "T1w[desc-brain]"):  # other, or not all that changes the scan
        with pytest.raises(DataError, match=r"there is T1w \(2 subjects\), T1w\[ce-gadolinium\] \(2 subjects\)"):
            discover(tmp_path, layout="bids", modalities=[modality, "T2w"])


def test_runs_and_ways_of_acquisition_are_chosen_by_their_entities(tmp_path: Path) -> None:
    tree(tmp_path, [f"sub-01/anat/sub-01_{e}_T1w.nii.gz" for e in ("acq-a_run-1", "acq-a_run-2", "acq-b")])
    tree(tmp_path, ["sub-01/anat/sub-01_T2w.nii.gz", "sub-02/anat/sub-02_part-mag_T2w.nii.gz"])
    tree(tmp_path, ["sub-02/anat/sub-02_acq-b_T1w.nii.gz"])
    either = discover(tmp_path, layout="bids", modalities=BIDS)
    assert list(sites_of(either)) == ["sub-02"]
    assert either.notes == (
        "T1w was acquired in several ways: acq-a x2, acq-b x2; to use one of them, write T1w[acq-b]",
    )
    both = discover(tmp_path, layout="bids", modalities=["T1w[acq-a_run-2]", "T1w[acq-b]", "T2w"])
    assert list(sites_of(both)) == ["sub-01"]
    assert [path.name.split("_", 1)[1] for path in both.subjects[0].sessions[0].paths.values()] == [
        "acq-a_run-2_T1w.nii.gz",
        "acq-b_T1w.nii.gz",
        "T2w.nii.gz",
    ]


# Tables


def test_a_column_that_names_somebody_else_says_nothing_of_them(tmp_path: Path) -> None:
    subjects = [f"sub-{k:02d}" for k in range(1, 7)]
    tree(tmp_path, [f"{s}/anat/{s}_{m}.nii.gz" for s in subjects for m in BIDS])
    participants = tmp_path / "participants.tsv"
    site = dict(zip(subjects, "AAABBB", strict=True))
    twins = [f"{s}\t{subjects[(k + 1) % 6]}\t{site[s]}\n" for k, s in enumerate(subjects)]
    participants.write_text("participant_id\ttwin_of\tsite\n" + "".join(twins))
    assert sites_of(discover(tmp_path, layout="bids", modalities=BIDS)) == site
    participants.write_text(
        "participant_id\tmatched_control\tsite\nsub-01\tsub-02\tA\nsub-02\tn/a\tNA\nsub-03\tn/a\tA\n"
        "sub-04\tn/a\tB\nsub-05\tn/a\tB\nsub-06\tn/a\tB\n"
    )
    discovery = discover(tmp_path, layout="bids", modalities=BIDS)
    assert discovery.summary().splitlines()[0] == "5 subjects at 2 sites: A 2, B 3"
    assert [item.place for item in discovery.skipped] == ["sub-02"]


def test_one_person_under_the_names_of_two_releases_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "map.csv"
    table.write_text(
        '"Site No (represents the originating institution)",BraTS2021,BraTS2023\n'
        "1,BraTS2021_00000,BraTS-GLI-00000-000\n1,BraTS2021_00001,BraTS-GLI-00001-000\n"
    )
    tree(tmp_path, brats("BraTS2021_00000", ("t1", "t1ce", "t2", "flair"), separator="_"))
    tree(tmp_path, brats("BraTS-GLI-00000-000") + brats("BraTS-GLI-00001-000"))
    with pytest.raises(DataError, match=r"BraTS-GLI-00000 and BraTS2021_00000 in .* are one person") as caught:
        discover(tmp_path, layout="brats", modalities=BRATS, sites_file=table)
    assert "data.exclude=[BraTS2021_00000]" in str(caught.value)
    found = discover(tmp_path, layout="brats", modalities=BRATS, sites_file=table, exclude=["BraTS2021_00000"])
    assert list(sites_of(found)) == ["BraTS-GLI-00000", "BraTS-GLI-00001"]


@pytest.mark.parametrize("kind", ["link to nothing", "folder"])
def test_participants_that_cannot_be_read_are_not_passed_over(tmp_path: Path, kind: str) -> None:
    """A clone of a DataLad data set has links to nothing where its files were not fetched."""
    tree(tmp_path, [f"sub-{s}/anat/sub-{s}_{m}.nii.gz" for s in ("01", "02") for m in BIDS])
    participants = tmp_path / "participants.tsv"
    participants.mkdir() if kind == "folder" else participants.symlink_to(".git/annex/nothing")
    with pytest.raises(ConfigError, match=r"cannot read the site map .*participants\.tsv"):
        discover(tmp_path, layout="bids", modalities=BIDS)


def test_participants_without_a_known_site_column_are_told_so(tmp_path: Path) -> None:
    tree(tmp_path, [f"sub-{s}/anat/sub-{s}_{m}.nii.gz" for s in ("01", "02") for m in BIDS])
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tscanned_at\nsub-01\t3\tOslo\nsub-02\t4\tBergen\n")
    discovery = discover(tmp_path, layout="bids", modalities=BIDS)
    assert discovery.summary().splitlines() == [
        "2 subjects at 1 site: site 2",
        "participants.tsv has no column that gives the site (participant_id, age, scanned_at), so all subjects are at"
        " one site; call that column site, or pass a table with --sites",
    ]


@pytest.mark.parametrize("table", ["participant_id\tsite\nsub-01\t\nsub-02\tn/a\n", "participant_id\tsite\n01\tA\n"])
def test_one_hospitals_participants_are_not_asked_for_sites(tmp_path: Path, table: str) -> None:
    tree(tmp_path, [f"sub-{s}/anat/sub-{s}_{m}.nii.gz" for s in ("01", "02") for m in BIDS])
    (tmp_path / "participants.tsv").write_text(table)
    for way in (Scans(tmp_path, "bids", one_site=True), Scans.like(DataConfig(layout="bids"), tmp_path)):
        assert sites_of(scans.discover(way, BIDS)) == {"sub-01": "site", "sub-02": "site"}


def test_names_without_sub_are_told_from_those_of_the_folder(tmp_path: Path) -> None:
    tree(tmp_path, [f"sub-{s}/anat/sub-{s}_{m}.nii.gz" for s in ("01", "02") for m in BIDS])
    participants = tmp_path / "participants.tsv"
    participants.write_text("participant_id\tsite\n01\tA\n02\tB\n")
    with pytest.raises(DataError, match=r"first: line 2 of participants\.tsv: 01\): .* called as sub-01 is"):
        discover(tmp_path, layout="bids", modalities=BIDS)
    participants.write_text("participant_id\tsite\nsub-01\tA\n02\tB\n")
    assert discover(tmp_path, layout="bids", modalities=BIDS).skipped == (
        Skipped("sub-02", f"not in the site map {participants}"),
        Skipped("line 3 of participants.tsv: 02", "a row of the site map that names no subject such as sub-01"),
    )


def test_sites_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828") + ixi("IXI003-guys-0829"))
    with pytest.raises(DataError, match="the sites Guys and guys differ in upper and lower case only"):
        discover(tmp_path, layout="ixi", modalities=IXI)


# Whatever is in the folder


def test_capitals_and_other_kinds_of_files_are_used_or_listed(tmp_path: Path) -> None:
    tree(tmp_path, [*ixi("IXI002-Guys-0828", ["T1", "T2"]), "IXI002-Guys-0828-PD.NII.GZ"])
    tree(tmp_path, ["IXI003-Guys-0829-T1.mgz", "IXI003-Guys-0829-T2.nii.bz2", "IM0001", "README", "a.JSON"])
    tree(tmp_path, ["IXI\u0660\u0661-Guys-1-T1.nii", "e/e/e/e/IXI004-Guys-0830-T1.nii"])  # Arabic digits; too deep
    discovery = discover(tmp_path, layout="ixi", modalities=IXI)
    assert sites_of(discovery) == {"IXI002": "Guys"}
    assert sorted(item.place for item in discovery.skipped) == [
        "IM0001",
        "IXI003-Guys-0829-T1.mgz",
        "IXI003-Guys-0829-T2.nii.bz2",
        "IXI\u0660\u0661-Guys-1-T1.nii",
        "e/e/e/e",
    ]


def test_links_and_trash_do_not_make_a_scan_two(tmp_path: Path) -> None:
    tree(tmp_path / "data", ixi("IXI002-Guys-0828", folder="new/"))
    tree(tmp_path / "data", ixi("IXI002-Guys-0828", folder=".Trash-1000/files/"))
    tree(tmp_path / "data", ixi("IXI002-Guys-0828", folder="$RECYCLE.BIN/"))
    (tmp_path / "data" / "current").symlink_to(".")
    (tmp_path / "data" / "latest").symlink_to("new")
    (tmp_path / "data" / "IXI002-Guys-0828-T1.nii.gz").symlink_to("new/IXI002-Guys-0828-T1.nii.gz")
    (tmp_path / "data" / "loop").symlink_to("loop")
    discovery = discover(tmp_path / "data", layout="ixi", modalities=IXI)
    (subject,) = discovery.subjects
    assert subject.sessions[0].paths["T1"] == tmp_path / "data" / "new" / "IXI002-Guys-0828-T1.nii.gz"
    assert {item.place: item.reason for item in discovery.skipped} == {
        "$RECYCLE.BIN": "a folder of the system",
        ".Trash-1000": "a folder of the system",
        "current": "a link to a folder that is looked into already",
        "latest": "a link to a folder that is looked into already",
        "loop": "no .nii or .nii.gz file; convert it if it is a scan",
    }


def test_scans_in_a_linked_folder_are_found(tmp_path: Path) -> None:
    tree(tmp_path / "disk", ixi("IXI002-Guys-0828"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ixi").symlink_to(tmp_path / "disk")
    assert sites_of(discover(tmp_path / "data", layout="ixi", modalities=IXI)) == {"IXI002": "Guys"}


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", b"\x1b[31m", "\u202egnp".encode()])
def test_names_that_cannot_be_shown_are_listed_in_escapes(tmp_path: Path, name: bytes) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828"))
    tree(tmp_path / os.fsdecode(name), ixi("IXI003-Guys-0829"))
    (skipped,) = discover(tmp_path, layout="ixi", modalities=IXI).skipped
    assert skipped.place.isascii()
    assert skipped.place.isprintable()
    assert "characters that cannot be shown" in skipped.reason


# Wrong input


def test_another_layout_is_recognised(tmp_path: Path) -> None:
    tree(tmp_path / "ixi", ixi("IXI002-Guys-0828"))
    tree(tmp_path / "brats", brats("BraTS-GLI-00001-000"))
    tree(tmp_path / "bids", ["sub-01/anat/sub-01_T1w.nii.gz"])
    for folder in ("ixi", "brats", "bids"):
        for layout in ("ixi", "brats", "bids"):
            if layout != folder:
                with pytest.raises(DataError, match=f"not in the {layout} layout; its names fit --layout {folder}"):
                    discover(tmp_path / folder, layout=layout, modalities=["T1"])


def test_folders_without_scans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 NIfTI files; expected are names like IXI012-HH-1211-T1\.nii\.gz"):
        discover(tmp_path, layout="ixi", modalities=IXI)
    with pytest.raises(DataError, match=r"1 NIfTI file, such as a\.nii\.gz"):
        discover(tree(tmp_path, ["a.nii.gz"]), layout="ixi", modalities=IXI)
    with pytest.raises(DataError, match="No such file or directory; check its name"):
        discover(tmp_path / "nowhere", layout="ixi", modalities=IXI)
    with pytest.raises(DataError, match="Not a directory; check its name"):
        discover(tmp_path / "a.nii.gz", layout="ixi", modalities=IXI)


@pytest.mark.parametrize(
    ("modalities", "cause"),
    [
        (
            ("T1", "T2", "FLAIR"),
            r"has FLAIR; there is T1 \(2 subjects\), T2 \(1 subject\)\. .* modalities of that list",
        ),
        (("t1", "T2"), "has t1; .*--scenario: write T1 for t1"),
        (("T1w", "t2w"), "has T1w, t2w; .*write T1 for T1w, write T2 for t2w"),
    ],
)
def test_modalities_that_no_subject_has_are_refused_with_those_there_are(
    tmp_path: Path, modalities: tuple[str, ...], cause: str
) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828", ["T1", "T2"]) + ixi("IXI003-Guys-0829", ["T1"]))
    with pytest.raises(DataError, match=cause):
        discover(tmp_path, layout="ixi", modalities=modalities)


@pytest.mark.parametrize(
    ("modalities", "cause"),
    [
        (("T1", "T2", "FLAIR"), r"T2 \(1 subject\)\. The model is of T1, T2, FLAIR: give a folder with these names$"),
        (("t1", "T2"), r"\. The model calls t1 what is T1 here: give a folder with these names$"),
        (("T1", "PD"), r"\. Complete the data, or give another folder$"),
    ],
)
def test_the_modalities_of_a_model_cannot_be_changed(tmp_path: Path, modalities: tuple[str, ...], cause: str) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828", ["T1", "T2"]) + ixi("IXI003-Guys-0829", ["PD"]))
    with pytest.raises(DataError, match=cause):
        scans.discover(Scans(tmp_path, "ixi"), modalities, of_model=True)


def test_old_brats_names_are_pointed_to_the_new_ones(tmp_path: Path) -> None:
    tree(tmp_path, brats("BraTS2021_00000", ("t1", "t1ce", "t2", "flair"), separator="_"))
    with pytest.raises(DataError, match="write t1c for t1ce, write t2f for FLAIR"):
        discover(tmp_path, layout="brats", modalities=["t1n", "t1ce", "FLAIR"])


def test_no_complete_session_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828", ["T1", "T2"]) + ixi("IXI003-Guys-0829", ["PD"]))
    with pytest.raises(DataError, match=r"skipped 2: no PD x1 \(first: IXI002 0828\); no T1, T2 x1"):
        discover(tmp_path, layout="ixi", modalities=IXI)


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, ixi("IXI002-Guys-0828"))
    with pytest.raises(ConfigError, match=r"no subject 'IXI2'.*look like IXI002"):
        discover(tmp_path, layout="ixi", modalities=IXI, exclude=["IXI2"])
    with pytest.raises(ConfigError, match="pass --layout ixi, brats, bids"):
        discover(tmp_path, layout="dicom", modalities=IXI)
    with pytest.raises(ConfigError, match="cannot read the site map"):
        discover(tmp_path, layout="ixi", modalities=IXI, sites_file=tmp_path / "nowhere.csv")


@given(having=st.dictionaries(st.integers(0, 999), st.sets(st.sampled_from(IXI), min_size=1), min_size=1, max_size=6))
def test_every_subject_is_found_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, having: dict[int, set[str]]
) -> None:
    folder = tmp_path_factory.mktemp("ixi")
    tree(folder, ixi("IXI1000-Guys-0001"))
    tree(folder, [name for number, modalities in having.items() for name in ixi(f"IXI{number:03d}-HH-1", modalities)])
    discovery = discover(folder, layout="ixi", modalities=IXI)
    found = {subject.id for subject in discovery.subjects}
    skipped = {item.place.split()[0] for item in discovery.skipped}
    assert found == {"IXI1000"} | {f"IXI{number:03d}" for number, modalities in having.items() if len(modalities) == 3}
    assert skipped == {f"IXI{number:03d}" for number, modalities in having.items() if len(modalities) < 3}


# Real trees


@pytest.fixture
def shared_data() -> Path:
    folder = Path(os.environ.get("AGI_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (folder / "ixi_like").is_dir() or not (folder / "brats_like").is_dir():
        pytest.skip("no shared data (AGI_SHARED_DATA)")
    return folder


def test_shared_trees(shared_data: Path) -> None:
    found = discover(shared_data / "ixi_like", layout="ixi", modalities=IXI)
    assert found.summary() == "44 subjects at 3 sites: Guys 24, HH 14, IOP 6"
    folder = shared_data / "brats_like"
    found = discover(folder, layout="brats", modalities=BRATS, sites_file=folder / "partitioning.csv")
    assert found.summary() == "4 subjects at 2 sites: site1 2, site2 2"


def test_the_runs_own_folder_is_read_without_whom_the_run_left_out(tmp_path: Path) -> None:
    """`evaluate --data` of the folder of training would stop at the broken scan for which somebody was left out."""
    data = DataConfig(dir=str(tmp_path / "a"), layout="ixi", exclude=("IXI101",), register="rigid")
    own = Scans.like(data, tmp_path / "b" / ".." / "a")
    assert (own.dir, own.exclude, own.layout, own.register) == (tmp_path / "a", ("IXI101",), "ixi", "rigid")
    other = Scans.like(data, tmp_path / "b", layout="bids")
    assert (other.exclude, other.layout, other.register) == ((), "bids", "rigid")
