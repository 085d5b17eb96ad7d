"""From a folder of scans to sites: the reference, the caches and the files that a simulation writes."""

import csv
import dataclasses
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.data.nifti import write_scan
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, Session, Subject
from agi_core.errors import ConfigError, DataError, RunError
from agi_core.host.console import plain_console
from agi_core.report.report import build_report
from agi_core.run import run_folder
from agi_core.run.event_log import events_of
from agi_core.run.events import Warned
from agi_core.scenario import parse_scenario
from client.site.opened import open_site
from simulations.printed import print_plan
from simulations.sites import choose_reference, find_sites, note_data, prepare_caches, read_headers, write_sites
from tests.support.brats_tree import labels_of, save, write_subject
from tests.support.small_data import AFFINE, SMALL, write_head, write_ixi


def subject(folder: Path, spacing_mm: dict[str, float]) -> Subject:
    """One subject whose scans differ in their spacing alone."""
    folder.mkdir(parents=True)
    for modality, mm in spacing_mm.items():
        data = np.arange(4 * 4 * 4, dtype=np.int16).reshape(4, 4, 4)
        write_scan(folder / f"{modality}.nii", data, affine=np.diag([mm, mm, mm, 1.0]), descrip="")
    return Subject(folder.name, "HH", (Session("", {m: folder / f"{m}.nii" for m in spacing_mm}),))


def chosen_reference(subjects: Sequence[Subject]) -> tuple[str, str | None]:
    scenario = parse_scenario("T1,T2:PD")
    return choose_reference(scenario, [grids for _, grids in read_headers(subjects, scenario)])


def test_what_sites_offer_is_of_a_vocabulary(tmp_path: Path) -> None:
    write_ixi(tmp_path, {"A": 3})
    overrides = {"data.dir": str(tmp_path), "clients": 1, "scenario": "T1,T2:PD"}
    config = load_config(None, overrides=overrides, assignments=["federation.offers={A: [T1,T2]}"])
    with pytest.raises(ConfigError, match=r"offers belongs to a vocabulary.*leave it out of a run of T1,T2:PD"):
        find_sites(config)


@pytest.mark.parametrize(
    ("spacing_mm", "reference", "warned"),
    [
        ({"T1": 1.0, "T2": 2.0, "PD": 2.0}, "T2", False),
        ({"T1": 2.0, "T2": 1.0, "PD": 2.0}, "T1", False),
        ({"T1": 2.0, "T2": 2.0, "PD": 2.0}, "T2", False),  # headers tell no more: the last that fits
        ({"T1": 1.0, "T2": 1.0, "PD": 2.0}, "T2", True),  # nothing fits: the last, and the user hears of it
    ],
)
def test_the_reference_has_the_targets_grid(
    tmp_path: Path, spacing_mm: dict[str, float], reference: str, warned: bool
) -> None:
    chosen, warning = chosen_reference([subject(tmp_path / "1", spacing_mm), subject(tmp_path / "2", spacing_mm)])
    assert chosen == reference
    assert (warning is not None) == warned
    assert warning is None or f"{reference} is taken as reference; set reference=" in warning


def test_one_subject_with_another_grid_rules_a_source_out(tmp_path: Path) -> None:
    usual, odd = {"T1": 2.0, "T2": 2.0, "PD": 2.0}, {"T1": 2.0, "T2": 1.0, "PD": 2.0}
    assert chosen_reference([subject(tmp_path / "1", usual), subject(tmp_path / "2", odd)]) == ("T1", None)


def test_the_headers_of_training_subjects_alone_choose_the_reference(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"HH": 5})
    config = load_config(None, overrides={"data.dir": str(data_dir), "clients": 1, "scenario": "T1,T2:PD"})
    chosen, federation = find_sites(config)
    assert chosen.reference == "T2"
    split = federation.splits["HH"]

    def move_t2_of(subject_id: str) -> None:
        (path,) = (data_dir / "IXI-T2").glob(f"{subject_id}-*")
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4, k=3) * 2), path)

    move_t2_of(split.test[0])
    assert find_sites(config)[0].reference == "T2"
    move_t2_of(split.train[0])
    assert find_sites(config)[0].reference == "T1"


def test_the_configuration_comes_back_with_sites_sizes_and_reference(small_config: RunConfig) -> None:
    config, federation = find_sites(dataclasses.replace(small_config, clients=2))
    assert (config.federation.sites, config.federation.unseen_sites) == (("Guys", "HH"), ("IOP",))
    assert config.federation.subjects == {"Guys": 5, "HH": 4, "IOP": 3}
    assert config.reference == "T2"
    assert {site: len(members) for site, members in federation.training.items()} == {"Guys": 5, "HH": 4}


def test_what_is_prepared_is_what_the_sites_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scan once, also where --data is a relative path."""
    write_ixi(tmp_path / "ixi", {"Guys": 4, "HH": 1})
    monkeypatch.chdir(tmp_path)
    overrides = {"data.dir": "ixi", "data.cache_dir": "cache", "clients": 1}
    config, federation = find_sites(load_config(None, overrides=overrides, assignments=SMALL))
    prepare_caches(config, federation)
    prepared = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(prepared) == 5
    paths = write_sites(tmp_path / "run", config, federation)
    guys, hh = (open_site(paths[site]).scans(config.task) for site in ("Guys", "HH"))
    opened = [session.path for session in (*guys.training.sessions, *guys.validation, *guys.test, *hh.everybody)]
    assert sorted(opened) == prepared == sorted((tmp_path / "cache").rglob("*.safetensors"))


def test_a_run_goes_on_with_the_subjects_that_it_began_with(small_config: RunConfig, tmp_path: Path) -> None:
    config, federation = find_sites(small_config)
    write_sites(tmp_path, config, federation)
    splits = json.loads((tmp_path / "splits.json").read_text())
    assert sorted(subject_id for part in splits["HH"].values() for subject_id in part) == [
        "IXI105",
        "IXI106",
        "IXI107",
        "IXI108",
    ]
    training = {**federation.training, "HH": federation.training["HH"][:-1]}
    with pytest.raises(RunError, match="scans were added, removed or renamed since the run began"):
        write_sites(tmp_path, config, dataclasses.replace(federation, training=training))


def test_a_run_goes_on_with_the_scans_that_it_began_with(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 4})
    overrides = {"data.dir": str(data_dir), "data.cache_dir": str(tmp_path / "cache"), "clients": 1}
    config = load_config(None, overrides=overrides, assignments=SMALL)
    write_sites(tmp_path / "run", *find_sites(config))
    scan = data_dir / "IXI-T2" / "IXI102-Guys-1102-T2.nii.gz"
    os.utime(scan, (1, 1))
    write_sites(tmp_path / "run", *find_sites(config))  # a copy of the folder will do
    write_head(scan, seed=7, contrast=1.4)
    with pytest.raises(RunError, match=r"the scans of IXI102 in .*ixi are not those that the run in .*run began with"):
        write_sites(tmp_path / "run", *find_sites(config))


@pytest.mark.parametrize("name", ["splits.json", "fingerprints.json"])
@pytest.mark.parametrize("content", ["{", "[1]"])
def test_what_a_run_began_with_and_is_damaged_is_named(
    small_config: RunConfig, tmp_path: Path, name: str, content: str
) -> None:
    config, federation = find_sites(small_config)
    write_sites(tmp_path, config, federation)
    (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=rf"{name} is damaged"):
        write_sites(tmp_path, config, federation)


def held_back(data_dir: Path, anatomy: str) -> RunConfig:
    overrides = {"data.dir": str(data_dir), "clients": 2, "data.unseen_anatomy": anatomy}
    return load_config(None, overrides=overrides, assignments=[*SMALL])


def test_nobody_trains_or_validates_on_the_anatomy_that_is_held_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 6, "HH": 5})
    anatomies = ["colin27", "ms19", "ms19", "ms07", "ms19", "colin27", *["ms07"] * 5]
    rows = [f"IXI{100 + i}-Guys-{1100 + i},Guys,{anatomy}\n" for i, anatomy in enumerate(anatomies)]
    (data_dir / "truth.csv").write_text("subject,site,anatomy\n" + "".join(rows))
    (data_dir / "phantom.json").write_text("{}")
    config, federation = find_sites(held_back(data_dir, "ms19"))
    files = write_sites(tmp_path / "run", config, federation)
    splits = run_folder.read_splits(tmp_path / "run")
    assert sorted(splits["Guys"]["test"]) == ["IXI101", "IXI102", "IXI104"]
    assert len(splits["HH"]["test"]) == 1
    print_plan(config, federation, plain_console())
    assert "\ntest subjects with that anatomy: Guys 3 of 3, HH 0 of 1\n" in capsys.readouterr().out
    opened = open_site(files["Guys"]).scans(config.task).subjects  # the site itself divides them so, too
    assert sorted(subject.id for subject in opened.test) == ["IXI101", "IXI102", "IXI104"]
    assert sorted(subject.id for subject in opened.train) == sorted(splits["Guys"]["train"])
    with pytest.raises(ConfigError, match="every subject of HH has it"):
        find_sites(held_back(data_dir, "ms07"))
    with pytest.raises(ConfigError, match="the data has colin27, ms07, ms19; choose one of them"):
        find_sites(held_back(data_dir, "ms20"))
    (data_dir / "phantom.json").unlink()
    with pytest.raises(ConfigError, match="only the built-in data knows"):
        find_sites(held_back(data_dir, "ms19"))


def test_hospitals_that_are_none_are_told(tmp_path: Path) -> None:
    for number in range(4):
        for seed, modality in enumerate(("T1w", "T2w", "PDw")):
            name = f"sub-{number}/anat/sub-{number}_{modality}.nii.gz"
            write_head(tmp_path / "bids" / name, seed=10 * number + seed, contrast=1.0)
    table = tmp_path / "bids" / "participants.tsv"
    overrides = {"data.dir": str(table.parent), "data.layout": "bids", "scenario": "T1w,T2w:PDw", "clients": 2}
    for column, told in (("scanner", True), ("hospital", False)):
        rows = [f"participant_id\t{column}", *(f"sub-{number}\t{'AB'[number % 2]}" for number in range(4))]
        table.write_text("\n".join(rows))
        config, federation = find_sites(load_config(None, overrides=overrides, assignments=SMALL))
        assert any("dealt out to 2 sites at random" in warning for warning in federation.warnings) == told
        assert config.federation.sites == (("site-1", "site-2") if told else ("A", "B"))


def test_one_scan_of_two_subjects_is_refused_at_once(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 2, "HH": 2})
    there, here = (data_dir / "IXI-PD" / f"IXI10{n}-{s}-110{n}-PD.nii.gz" for n, s in ((0, "Guys"), (3, "HH")))
    shutil.copyfile(there, here)
    overrides = {"data.dir": str(data_dir), "data.cache_dir": str(tmp_path / "cache"), "clients": 2}
    config = load_config(None, overrides=overrides, assignments=SMALL)
    with pytest.raises(DataError, match=rf"{there} and {here} hold the same image.*data\.exclude=\[IXI103\]"):
        find_sites(config)


def test_one_image_of_two_subjects_in_two_files_is_refused_before_the_first_round(tmp_path: Path) -> None:
    """Also by a run that finds its cache filled."""
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 4})
    there, here = (data_dir / "IXI-PD" / f"IXI10{n}-Guys-110{n}-PD.nii.gz" for n in (0, 3))
    here.write_bytes(gzip.compress(gzip.decompress(there.read_bytes()), compresslevel=1))
    overrides = {"data.dir": str(data_dir), "data.cache_dir": str(tmp_path / "cache"), "clients": 1}
    config, federation = find_sites(load_config(None, overrides=overrides, assignments=SMALL))
    for _ in range(2):
        with pytest.raises(DataError, match=r"PD\.nii\.gz hold the same image.*data\.exclude=\[IXI103\]"):
            prepare_caches(config, federation)


def test_only_training_sites_of_a_private_run_get_a_ledger(small_config: RunConfig, tmp_path: Path) -> None:
    privacy = dataclasses.replace(small_config.privacy, epsilon=8.0)
    config, federation = find_sites(dataclasses.replace(small_config, clients=2, privacy=privacy))
    paths = write_sites(tmp_path, config, federation)
    files = {site: yaml.safe_load(path.read_text()) for site, path in paths.items()}
    assert files["IOP"]["privacy"] is None
    assert files["Guys"]["privacy"]["epsilon"] == 8.0
    assert files["Guys"]["privacy"]["subjects"] == 3  # of five, one tests and one validates
    assert files["Guys"]["policy"]["minimum_subjects"] == 1


def test_doubts_about_headers_are_warnings_and_name_their_scans_on_the_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 12, "HH": 1})
    for path in (data_dir / "IXI-T1").iterdir():
        image = nibabel.load(path)
        moved = image.affine.copy()
        moved[2, 3] += 25
        image.set_sform(moved, code=4)
        image.set_qform(AFFINE, code=1)
        nibabel.save(image, path)
    for path in (*(data_dir / "IXI-T2").iterdir(), *(data_dir / "IXI-PD").iterdir()):
        image = nibabel.load(path)
        image.set_sform(AFFINE, code=1)
        nibabel.save(image, path)
    overrides = {"data.dir": str(data_dir), "data.cache_dir": str(tmp_path / "cache"), "clients": 1}
    config, federation = find_sites(load_config(None, overrides=overrides, assignments=SMALL))
    apart = "sform and qform place the scan more than a voxel apart; the sform is used, in 13 scans"
    mixed = "a scan lies in a template's space, others of its session do not, in 13 scans"
    assert {apart, mixed} <= {*federation.warnings}
    assert federation.doubted[apart][0] == (
        "IXI-T1/IXI100-Guys-1100-T1.nii.gz: up to 25.0 mm; sform: MNI152, qform: scanner"
    )
    assert federation.doubted[mixed][0].endswith(": MNI152; in the scanner's: T2, PD")

    print_plan(config, federation, plain_console())
    out = " ".join(capsys.readouterr().out.split())
    assert f"warning: {apart} IXI-T1/IXI100-Guys-1100-T1.nii.gz: up to 25.0 mm;" in out
    assert "and 3 more" in out
    note_data(tmp_path, config, federation)
    texts = [event.text for event in events_of(tmp_path, Warned)]
    assert apart in texts
    assert not any("IXI1" in text for text in texts)


def test_one_voxel_changes_no_head_and_is_told(tmp_path: Path) -> None:
    """The report counts, the terminal names; the next run, which finds the cache filled, as well."""
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 3})
    overrides = {"data.dir": str(data_dir), "data.cache_dir": str(tmp_path / "cache"), "clients": 1}
    config = load_config(None, overrides=overrides, assignments=SMALL)
    warning = "some values lie far from all others, and are not believed, in 1 scan"
    heads = []
    for hot in (False, True, True):
        if hot:
            scan = data_dir / "IXI-PD" / "IXI101-Guys-1101-PD.nii.gz"
            data = np.asarray(nibabel.load(scan).dataobj).copy()
            data[20, 18, 4] = 32767
            nibabel.save(nibabel.Nifti1Image(data, AFFINE), scan)
        found, federation = find_sites(config)
        federation = prepare_caches(found, federation)
        assert (warning in federation.warnings) == hot
        if hot:
            (named,) = federation.doubted[warning]
            assert named.startswith("IXI-PD/IXI101-Guys-1101-PD.nii.gz: 1 of 11520 voxels, such as 32767")
        whole = Preparation.of(found.task, Scans.of(found.data), cache_dir=tmp_path / "cache", whole=True)
        (entry,) = whole.open([s for s in federation.discovery.subjects if s.id == "IXI101"])
        heads.append([entry.read_slice(k)[1] for k in range(8)])
    np.testing.assert_array_equal(heads[0], heads[1])


def test_a_segmentation_of_a_test_subject_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    for number in range(1, 5):
        write_subject(tmp_path / "brats", number, modalities=("t1n", "t2f"))
    overrides = {"data.dir": str(tmp_path / "brats"), "data.layout": "brats", "clients": 1, "scenario": "t1n:t2f"}
    overrides["data.cache_dir"] = str(tmp_path / "cache")
    config, federation = find_sites(load_config(None, overrides=overrides, assignments=SMALL))
    assert not prepare_caches(config, federation).warnings
    (tested,) = federation.splits["site"].test
    for path in (tmp_path / "brats").rglob("*-seg.nii.gz"):
        save(path, 2 * labels_of(1))
    federation = prepare_caches(config, federation)
    (told,) = federation.warnings
    assert told == "1 segmentation cannot be used: the site's final test has no figures of tumour and healthy tissue"
    assert tested in federation.doubted[told][0]


def test_a_segmentation_network_that_has_nothing_to_do_is_told(tmp_path: Path) -> None:
    for number in range(1, 5):
        write_subject(tmp_path / "brats", number, modalities=("t1n", "t2w", "t2f"))
    overrides = {"data.dir": str(tmp_path / "brats"), "data.layout": "brats", "clients": 1, "scenario": "t1n:t2f"}
    overrides |= {"data.cache_dir": str(tmp_path / "cache"), "data.segmenter": "net.safetensors"}
    config, federation = find_sites(load_config(None, overrides=overrides, assignments=SMALL))
    federation = prepare_caches(config, federation)
    (told,) = federation.warnings
    assert told.startswith("1 of 1 test subjects lack one of t1n, t1c, t2w, t2f and a segmentation: their sites tell")
    (tested,) = federation.splits["site"].test
    assert [*federation.doubted.values()] == [[tested]]


def test_a_header_that_cannot_be_believed_is_refused_at_once(small_config: RunConfig, tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 3})
    path = data_dir / "IXI-T1" / "IXI101-Guys-1101-T1.nii.gz"
    image = nibabel.load(path)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, path)
    data = dataclasses.replace(small_config.data, dir=str(data_dir))
    with pytest.raises(DataError, match=r"its sform is not set .* data\.exclude=\[IXI101\]") as caught:
        find_sites(dataclasses.replace(small_config, data=data, clients=1, reference="T2"))
    assert str(path) in str(caught.value)


HOSTILE = [
    *("../../../outside", "/abs/x", "a/b\\c", "..", ".", "C:\\x", "con", "-rf", "x.yaml", "~root"),
    *("it's", 'a "b"', "[bold]x[/bold]", "[/x]", "{site}", "%s", "<script>alert(1)</script>", "&amp;", "$\\frac"),
    *("${oc.env:HOME}", "${", "???", "!!python/object:x", "*a", "&a", "# x", "a: b", "- a", "|", "@x"),
    *("001", "0012", "no", "1e3", "0x1f", "1.0", "null", "NaN", "true", "\u0661\u0662", "\uff11"),
    *("K\u00f8ge", "Ko\u0308ln", "\u6771\u4eac", "\u202egnp.exe", "a\u200bb", "a\tb", "\x1b[31mred", "\x7f", "\ufeffx"),
    *("x" * 100, "\u6771" * 90, "site", "A", "a"),
]


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.tuples(*[st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=30))] * 3))
@example(names=("../../../outside", "/abs/x", "${oc.env:HOME}"))
@example(names=("001", "no", "1e3"))
@example(names=("<script>alert(1)</script>", "[/x]", "$\\frac"))
def test_sites_of_any_name_stay_in_the_run_folder_or_are_refused(
    small_config: RunConfig, tmp_path: Path, names: tuple[str, str, str]
) -> None:
    """From the table over the sites' files to the report: nothing is interpreted, and nothing is written elsewhere."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    subjects = [f"IXI{100 + k}" for k in range(5)]
    with (folder / "sites.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [(subject, names[k % 3]) for k, subject in enumerate(subjects)]
        csv.writer(file).writerows([("Subject_ID", "Site"), *rows])
    data = dataclasses.replace(small_config.data, sites=str(folder / "sites.csv"))
    try:
        config, federation = find_sites(dataclasses.replace(small_config, data=data, clients=1))
    except (DataError, ConfigError):
        return
    run_dir = folder / "runs" / "r"
    run_folder.create(run_dir, config)
    assert run_folder.open_existing(run_dir) == config
    paths = write_sites(run_dir, config, federation)
    note_data(run_dir, config, federation)
    assert {path.parent for path in paths.values()} == {run_dir / "sites"}
    assert {path.relative_to(folder).parts[0] for path in folder.iterdir()} == {"sites.csv", "runs"}
    sites = set(config.federation.sites + config.federation.unseen_sites)
    assert {open_site(path).file.site for path in paths.values()} == sites == set(paths)
    assert len(set(paths.values())) == len(paths)
    for site, members in {**federation.training, **federation.unseen}.items():
        assert open_site(paths[site]).file.data.subjects == tuple(member.id for member in members)
    page = build_report(run_dir).read_text(encoding="utf-8")
    assert "<script>alert" not in page
