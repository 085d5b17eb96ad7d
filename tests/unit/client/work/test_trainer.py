"""What a task and a site file say about misalignment reaches the slices that are trained on."""

import dataclasses
from pathlib import Path

import pytest
import torch

from agi_core.config.load import task_json
from agi_core.config.schema import RunConfig
from agi_core.errors import ConfigError
from client.site.file import Site, SiteData, to_yaml
from client.work.trainer import open_training


def write_site(folder: Path, data: SiteData) -> Path:
    path = folder / "HH.yaml"
    path.write_text(to_yaml(Site("HH", data, cache_dir=str(folder / "cache"))))
    return path


def data_of(config: RunConfig) -> SiteData:
    assert config.data.dir is not None
    return SiteData(config.data.dir, "ixi", subjects=["IXI105", "IXI106", "IXI107"])


def test_a_site_registers_to_the_runs_reference(tmp_path: Path, small_config: RunConfig) -> None:
    pytest.importorskip("SimpleITK")
    site_path = write_site(tmp_path, dataclasses.replace(data_of(small_config), register="rigid"))
    task = dataclasses.replace(small_config.task, reference=None)
    with pytest.raises(ConfigError, match=r"site HH registers its scans.*names no reference"):
        open_training(site_path, task_json(task))
    entries = [
        {session.path for session in open_training(site_path, task_json(task)).sessions}
        for task in (dataclasses.replace(task, reference=reference) for reference in ("T1", "T2"))
    ]
    assert entries[0].isdisjoint(entries[1])


def test_a_task_moves_its_source_in_training(tmp_path: Path, small_config: RunConfig) -> None:
    site_path, task = write_site(tmp_path, data_of(small_config)), small_config.task
    misalign = dataclasses.replace(task.training.misalign, source="T2", size=3)
    moving = dataclasses.replace(task, training=dataclasses.replace(task.training, misalign=misalign))
    still, moved = (
        open_training(site_path, task_json(t)).draw(torch.Generator().manual_seed(0), 8) for t in (task, moving)
    )
    assert torch.equal(still.target, moved.target)
    assert torch.equal(still.sources[:, 0], moved.sources[:, 0])
    assert not torch.equal(still.sources[:, 1], moved.sources[:, 1])
