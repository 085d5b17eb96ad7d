"""Alignment and attention of real models, on a built-in subject whose pose is known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig, Task
from agi_core.data.cached_session import CachedSession
from agi_core.data.phantom.tree import write_phantom
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, discover
from agi_core.models.agi_net import build_model
from agi_core.network import Network
from agi_core.scenario import parse_scenario
from simulations.inspection import mean_attention, moved_sources, recorded_attention, through_plane

SCENARIO = "T1,T2:PD"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("inspection") / "ixi"
    write_phantom(data_dir, layout="ixi", sites={"HH": 1}, seed=0)
    return data_dir


@pytest.fixture(scope="module")
def session(data_dir: Path) -> CachedSession:
    scans, task = Scans(data_dir, "ixi"), Task(scenario=SCENARIO)
    subjects = discover(scans, parse_scenario(SCENARIO).modalities).subjects
    (session,) = Preparation.of(task, scans, cache_dir=data_dir / "cache", whole=True).open(subjects)
    return session


def config_of(data_dir: Path, *settings: str) -> RunConfig:
    overrides = {"data.dir": str(data_dir), "scenario": SCENARIO, "reference": "T2"}
    small = ("model.widths=[8,16]", "model.groups=4", "model.alignment=none", "model.neighbours=0")
    return load_config(None, overrides=overrides, assignments=(*small, *settings))


@pytest.mark.parametrize(
    ("settings", "axes"),
    [
        (("model.alignment=affine",), 2),
        (("model.alignment=affine", "model.neighbours=1"), 3),
        (("model.alignment=affine", "model.dims=3", "grid.crop=[64,64,16]"), 3),
    ],
    ids=["slice", "slab", "volume"],
)
def test_a_head_that_moved_is_followed(
    data_dir: Path, session: CachedSession, settings: tuple[str, ...], axes: int
) -> None:
    """Most of the true motion is found, in the direction in which the truth has it."""
    config = config_of(data_dir, *settings)
    moved = moved_sources(Network(config), session, 10, data=config.data)
    assert list(moved) == ["T1"]
    head, found, true = session.read_slice(10)[1], moved["T1"].offset_mm, moved["T1"].true_offset_mm
    assert true is not None
    assert (found.shape[0], moved["T1"].aligned.shape) == (axes, head.shape)
    in_plane_mm, error_mm = (np.linalg.norm(field[-2:], axis=0)[head] for field in (true, found[-2:] - true[-2:]))
    assert np.median(error_mm) < 0.5 * np.median(in_plane_mm)


def test_registered_scans_have_no_known_truth_and_other_models_no_alignment(
    data_dir: Path, session: CachedSession
) -> None:
    config = config_of(data_dir, "model.alignment=global", "data.register=rigid")
    assert moved_sources(Network(config), session, 10, data=config.data)["T1"].true_offset_mm is None
    config = config_of(data_dir)
    assert moved_sources(Network(config), session, 10, data=config.data) == {}


def test_attention_is_one_half_before_training_and_names_the_sources_first(data_dir: Path) -> None:
    config = config_of(data_dir)
    model = build_model(config.model, sources=2)
    with recorded_attention(model) as seen, torch.no_grad():
        for size in (2, 1):
            model(torch.rand(size, 2, 16, 16))
    with torch.no_grad():
        model(torch.full((1, 2, 16, 16), torch.nan))  # no longer watched
    means = mean_attention(seen, config=config)
    assert list(means["encoder.0.conv1"]) == ["T1", "T2"]
    assert list(means["encoder.0.conv2"]) == ["group 1", "group 2", "group 3", "group 4"]
    assert set(means) == {f"{part}.conv{n}" for part in ("encoder.0", "encoder.1", "decoder.0") for n in (1, 2)}
    assert {value for groups in means.values() for value in groups.values()} == {0.5}


def test_mean_attention_is_over_samples_and_a_plain_network_has_none(data_dir: Path) -> None:
    config = config_of(data_dir)
    seen = {"encoder.0.conv1": [torch.tensor([[0.5, 0.25]]), torch.tensor([[0.75, 0.25], [1.0, 0.25]])]}
    assert mean_attention(seen, config=config) == {"encoder.0.conv1": {"T1": 0.75, "T2": 0.25}}
    plain = build_model(config_of(data_dir, "model.conv=plain").model, sources=2)
    with recorded_attention(plain) as nothing, torch.no_grad():
        plain(torch.rand(1, 2, 16, 16))
    assert nothing == {}


def test_slices_that_do_not_change_are_alike_and_flicker_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(24, 30, generator=generator).expand(12, 24, 30)
    flicker = (target + 0.3 * torch.rand(12, 1, 1, generator=generator)).clamp(0, 1)
    planes = through_plane(target, flicker, torch.ones(12, 24, 30, dtype=torch.bool))
    assert set(planes) == {"axial", "coronal", "sagittal"}
    assert planes["axial"][0] == pytest.approx(1)
    assert planes["axial"][1] < 0.98
    thin = slice(0, 8)  # too few rows for SSIM's window in the other two planes
    assert set(through_plane(target[thin], flicker[thin], torch.ones(8, 24, 30, dtype=torch.bool))) == {"axial"}
