"""What a task and a site file say reaches the scans that are opened, and nothing is read twice."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from agi_core.cells import parse_vocabulary
from agi_core.config.schema import PrivacyConfig, RunConfig, Task
from agi_core.data import scans
from agi_core.data.datasets import TrainingSlices
from agi_core.errors import AbsentError, DataError, NoneHeldError, NotHeldError
from client.site import opened
from client.site.file import Site, SiteData, read_site, to_yaml
from client.site.opened import KEPT_TASKS, OpenSite, SiteScans, open_site
from tests.support.requests_by_hand import deployed_site
from tests.support.small_data import write_ixi


def write_site(folder: Path, data: SiteData, *, name: str = "HH") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(to_yaml(Site(site=name, data=data, cache_dir=str(folder / "cache"))))
    return path


def data_of(config: RunConfig, *subjects: str) -> SiteData:
    assert config.data.dir is not None
    return SiteData(dir=config.data.dir, layout="ixi", subjects=subjects or ("IXI105", "IXI106", "IXI107"))


def training(site_path: Path, task: Task) -> TrainingSlices:
    return open_site(site_path).scans(task).training


def test_a_site_registers_to_the_runs_reference(tmp_path: Path, small_config: RunConfig) -> None:
    pytest.importorskip("SimpleITK")
    site_path = write_site(tmp_path, dataclasses.replace(data_of(small_config), register="rigid"))
    entries = {
        reference: {
            session.path
            for session in training(site_path, dataclasses.replace(small_config.task, reference=reference)).sessions
        }
        for reference in ("T1", "T2", None)
    }
    assert entries["T1"].isdisjoint(entries["T2"])
    assert entries[None] == entries["T2"]  # the last source, where nobody has chosen


def test_a_task_moves_its_source_in_training(tmp_path: Path, small_config: RunConfig) -> None:
    site_path, task = write_site(tmp_path, data_of(small_config)), small_config.task
    misalign = dataclasses.replace(task.training.misalign, source="T2", size=3)
    moving = dataclasses.replace(task, training=dataclasses.replace(task.training, misalign=misalign))
    still, moved = (training(site_path, t).draw(torch.Generator().manual_seed(0), 8).images for t in (task, moving))
    assert torch.equal(still[:, [0, 2]].float(), moved[:, [0, 2]])
    assert not torch.equal(still[:, 1].float(), moved[:, 1])


def test_in_a_private_run_a_subjects_statistics_depend_on_no_other(tmp_path: Path, small_config: RunConfig) -> None:
    """Elsewhere a site with few subjects reads more slices of each: who else is there decides how many."""
    task = dataclasses.replace(small_config.task, model=dataclasses.replace(small_config.model, prior="cubic"))
    private = dataclasses.replace(task, privacy=PrivacyConfig(epsilon=8.0))
    few, everybody = ("IXI105", "IXI106", "IXI107"), tuple(f"IXI{n}" for n in range(100, 112))
    sites = [write_site(tmp_path, data_of(small_config, *own), name=f"HH-{len(own)}") for own in (few, everybody)]
    of_few, of_all = (open_site(path).scans(private).prior_statistics for path in sites)
    assert (shared := of_few.keys() & of_all.keys())
    assert all(np.array_equal(of_few[name].gram, of_all[name].gram) for name in shared)
    of_few, of_all = (open_site(path).scans(task).prior_statistics for path in sites)
    assert not any(np.array_equal(of_few[name].gram, of_all[name].gram) for name in shared)


@pytest.mark.parametrize("part", ["subjects", "training", "prior_statistics", "validation", "test", "everybody"])
def test_what_a_site_does_not_offer_is_never_opened(tmp_path: Path, small_config: RunConfig, part: str) -> None:
    """Its PD is there, and stays out of everything that answers a request."""
    site_path = write_site(tmp_path, dataclasses.replace(data_of(small_config), modalities=("T1", "T2")))
    with pytest.raises(NotHeldError, match=r"HH does not offer PD \(data.modalities: T1, T2\)"):
        getattr(open_site(site_path).scans(small_config.task), part)
    assert not (tmp_path / "cache").exists()
    assert open_site(site_path).scans(dataclasses.replace(small_config.task, scenario="T1:T2")).subjects.train


def test_a_site_is_read_again_only_after_its_file_changed(tmp_path: Path, small_config: RunConfig) -> None:
    path = write_site(tmp_path, data_of(small_config))
    first = open_site(path)
    assert open_site(path) is first
    assert first.scans(small_config.task).training is open_site(path).scans(small_config.task).training
    path.write_text(path.read_text().replace("threads: 1", "threads: 3"))
    os.utime(path, ns=(1, 1))
    assert open_site(path).file.threads == 3


def test_an_edit_counts_although_size_and_time_stay(tmp_path: Path, small_config: RunConfig) -> None:
    path = write_site(tmp_path, data_of(small_config))
    before = path.stat()
    assert open_site(path).file.threads == 1
    path.write_text(path.read_text().replace("threads: 1", "threads: 7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_site(path).file.threads == 7


def test_a_deployed_site_notices_who_comes_and_goes(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"HH": 4})
    path, task = tmp_path / "HH.yaml", Task(scenario="T1,T2:PD")
    path.write_text(
        f"site: HH\ndata: {{dir: {data_dir}, layout: ixi}}\ncache_dir: cache\nstate_dir: state\nkey_file: key\n"
        "coordinator: {address: 'agi.example.org:443', ca_file: ca.crt, public_key: key}\n"
    )
    first = open_site(path).scans(task)
    withdrawn, *others = (subject.id for subject in first.subjects.all)
    assert open_site(path).scans(task) is first
    for scan in data_dir.glob(f"*/{withdrawn}-*"):
        scan.rename(tmp_path / scan.name)
    assert {subject.id for subject in open_site(path).scans(task).subjects.all} == {*others}
    for scan in tmp_path.glob(f"{withdrawn}-*"):
        scan.rename(data_dir / f"IXI-{scan.name.removesuffix('.nii.gz').rpartition('-')[2]}" / scan.name)
    assert {subject.id for subject in open_site(path).scans(task).subjects.all} == {withdrawn, *others}
    for folder in data_dir.iterdir():
        shutil.rmtree(folder)
    with pytest.raises(DataError):
        _ = open_site(path).scans(task).subjects


def test_the_cache_has_a_quota(tmp_path: Path, small_config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    """The attack: grid after grid, each of which makes a cache. The scans of the first grid are prepared again."""
    site = Site(site="HH", data=data_of(small_config), cache_dir=str(tmp_path / "cache"), state_dir=str(tmp_path))
    grid = dataclasses.replace(small_config.grid, spacing_mm=(4.0, 4.0, 9.0))
    tasks = [small_config.task, dataclasses.replace(small_config.task, grid=grid)]
    whole = OpenSite(site).scans(tasks[0]).everybody[0].path.stat().st_size
    opened_site = OpenSite(dataclasses.replace(site, cache_gb=3 * (whole + 2**16) / 1e9))
    first, second = (opened_site.scans(task) for task in tasks)
    kept = {session.path for session in first.everybody}
    assert len({*kept, *(session.path for session in second.everybody)}) > 3
    assert "cache_gb: " in caplog.text
    assert not all(path.exists() for path in kept)
    opened_site.forget_outdated()
    assert opened_site.scans(tasks[1]) is second
    assert [session.read_slice(0)[0].shape for session in opened_site.scans(tasks[0]).everybody] != []
    with pytest.raises(DataError, match=r"need up to .* Raise cache_gb"):
        _ = (
            OpenSite(dataclasses.replace(site, cache_gb=whole / 1e9, cache_dir=str(tmp_path / "new")))
            .scans(tasks[0])
            .test
        )


def test_one_person_under_two_names_does_not_train_and_test(tmp_path: Path, small_config: RunConfig) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"HH": 3})
    for modality in ("T1", "T2", "PD"):
        folder = data_dir / f"IXI-{modality}"
        shutil.copyfile(folder / f"IXI100-HH-1100-{modality}.nii.gz", folder / f"IXI102-HH-1102-{modality}.nii.gz")
    site_path = write_site(tmp_path, SiteData(dir=str(data_dir), layout="ixi"))
    with pytest.raises(DataError, match=r"hold the same image.*data\.exclude=\[IXI102\]") as caught:
        open_site(site_path).scans(small_config.task).subjects  # noqa: B018
    assert "IXI" not in caught.value.public


def test_sites_of_one_folder_look_it_up_once_per_task(
    tmp_path: Path, small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []

    def discover(*arguments: object) -> scans.Discovery:
        looked_up.append(arguments)
        return scans.discover(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(opened, "discover", discover)
    sites = [write_site(tmp_path, data_of(small_config, f"IXI10{n}"), name=f"HH-{n}") for n in range(5, 9)]
    for rounds in (3, 4):
        task = dataclasses.replace(small_config.task, rounds=rounds)
        for path in sites:
            assert len(open_site(path).scans(task).subjects.all) == 1
        assert len(looked_up) == rounds - 2


def test_old_tasks_are_forgotten(tmp_path: Path, small_config: RunConfig) -> None:
    site = OpenSite(read_site(write_site(tmp_path, data_of(small_config))))
    tasks = [dataclasses.replace(small_config.task, seed=seed) for seed in range(KEPT_TASKS + 1)]
    opened_scans: list[SiteScans] = [site.scans(task) for task in tasks]
    assert site.scans(tasks[-1]) is opened_scans[-1]
    assert site.scans(tasks[0]) is not opened_scans[0]


def test_a_deployed_site_gives_a_subject_one_part_for_all_cells(tmp_path: Path) -> None:
    """Whichever cell is asked about first; some subjects lack a modality."""
    data_dir = write_ixi(tmp_path / "ixi", {"HH": 8})
    for number, modality in ((100, "PD"), (101, "T2"), (102, "T2"), (103, "T1")):
        (data_dir / f"IXI-{modality}" / f"IXI{number}-HH-{1000 + number}-{modality}.nii.gz").unlink()
    path = deployed_site(tmp_path, data_dir, name="HH")
    part_of: dict[str, set[str]] = {}
    for cell in reversed(parse_vocabulary("T1,T2,PD:any").cells):
        subjects = open_site(path).scans(Task(scenario=str(cell))).subjects
        for part in ("train", "validation", "test"):
            for subject in getattr(subjects, part):
                part_of.setdefault(subject.id, set()).add(part)
    assert len(part_of) == 8
    assert all(len(parts) == 1 for parts in part_of.values())


def test_a_site_whose_scans_do_not_hold_what_it_offers_sits_out(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"HH": 2})
    (data_dir / "IXI-PD" / "IXI100-HH-1100-PD.nii.gz").unlink()
    (data_dir / "IXI-T2" / "IXI101-HH-1101-T2.nii.gz").unlink()
    path = deployed_site(tmp_path, data_dir, name="HH")
    task = Task(scenario="T2:PD")
    with pytest.raises(NoneHeldError, match=r"site HH: no subject in .* can be used for T2, PD"):
        _ = open_site(path).scans(task).subjects
    with pytest.raises(AbsentError, match=r"no subject in .* has FLAIR"):  # perhaps another folder
        _ = open_site(path).scans(Task(scenario="T2:FLAIR")).subjects
    path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, modalities: [T2, PD]"))
    with pytest.raises(NoneHeldError, match=r"site HH offers T2, PD \(data.modalities\), but no subject in"):
        _ = open_site(path).scans(task).subjects
    with pytest.raises(NotHeldError, match="does not offer FLAIR"):  # which the folder lacks too
        _ = open_site(path).scans(Task(scenario="T2:FLAIR")).subjects
