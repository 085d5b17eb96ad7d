"""The error layer: on errors whose size is known, and on real networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy import stats

from agi_core.config.schema import GridConfig, Task
from agi_core.data.cached_session import CachedSession, open_entry
from agi_core.data.nifti import FloatArray
from agi_core.errors import DataError
from agi_core.evaluation import predict_session
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.uncertainty import (
    LEAST,
    STRENGTHS,
    VOXELS,
    Interval,
    Sample,
    WithError,
    calibrate,
    expected,
    fit,
    sample,
    strength_of,
)
from tests.support.cache_entries import write_entry

TASK = Task(scenario="T1,T2:PD", model=ModelConfig(widths=(8, 8), prior="cubic"))
VOLUMES = Task(
    scenario="T1,T2:PD", model=ModelConfig(dims=3, widths=(8, 8), prior="cubic"), grid=GridConfig(crop=(16, 16, 16))
)
OF_NORMAL = np.sqrt(2 / np.pi)  # mean of |N(0, 1)|


def subject(seed: int, *, harder: float = 1.0) -> Sample:
    """Voxels whose error is normal, with a standard deviation of 0.02 to 0.10 that the second feature tells."""
    rng = np.random.default_rng(seed)
    x = rng.random(VOXELS)
    return Sample(np.stack([np.ones(VOXELS), x]), np.abs(rng.normal(0, harder * (0.02 + 0.08 * x))))


def network_of(task: Task) -> Network:
    network, rng = Network(task), np.random.default_rng(0)
    network.set_readout(rng.normal(0, 0.1, network.readout.shape))
    return network


def test_the_expected_error_is_found() -> None:
    layer = fit([subject(seed).statistics for seed in range(8)])
    np.testing.assert_allclose(layer, OF_NORMAL * np.array([0.02, 0.08]), rtol=0.05)
    assert expected(np.array([-1.0, 0.0]), np.ones((2, 1))) == LEAST


def test_features_that_tell_nothing_of_new_subjects_are_not_used() -> None:
    """The feature means more error in one half of the subjects, and less in the other."""
    samples = [subject(seed) for seed in range(8)]
    samples = [Sample(s.features * [[1], [(-1) ** n]], s.error) for n, s in enumerate(samples)]
    assert strength_of([s.statistics for s in samples]) == STRENGTHS[-1]
    layer = fit([s.statistics for s in samples])
    mean_error = np.mean([s.error.mean() for s in samples])
    np.testing.assert_allclose(layer, [mean_error, 0], atol=0.03 * mean_error)
    assert strength_of([subject(seed).statistics for seed in range(8)]) == STRENGTHS[0]


def test_the_interval_is_that_of_the_normal_and_covers_new_subjects() -> None:
    model, covered = calibrate([subject(seed) for seed in range(50)])
    wanted = 0.9 * 51 / 50
    assert model.factor == pytest.approx(stats.norm.ppf((1 + wanted) / 2) / OF_NORMAL, rel=0.02)
    new = [subject(seed) for seed in range(100, 110)]
    shares = [(s.error <= model.factor * expected(model.layer, s.features)).mean() for s in new]
    assert np.mean(shares) == pytest.approx(wanted, abs=0.01)
    assert np.mean(covered) == pytest.approx(wanted, abs=0.01)
    harder = subject(200, harder=2)
    assert (harder.error <= model.factor * expected(model.layer, harder.features)).mean() < 0.7


def test_each_subject_is_scored_by_the_others_in_any_order() -> None:
    """Ten subjects, of which one has errors of its own: its coverage is low, and no order changes anything."""
    samples = [subject(seed, harder=3 if seed == 4 else 1) for seed in range(10)]
    model, covered = calibrate(samples)
    assert np.argmin(covered) == 4
    assert covered[4] < 0.6
    order = np.random.default_rng(0).permutation(10)
    again, their_covered = calibrate([samples[n] for n in order])
    np.testing.assert_allclose(again.layer, model.layer, rtol=1e-9)
    np.testing.assert_allclose(np.array(covered)[order], their_covered, atol=1e-3)
    assert np.abs(again.counts - model.counts).sum() <= 4  # of 40960: a score on an edge
    assert model.counts.sum() == 10 * VOXELS


def test_one_subject_is_too_few() -> None:
    with pytest.raises(DataError, match="1 subjects are too few"):
        calibrate([subject(0)])


def test_what_is_guaranteed_of_a_blend() -> None:
    """Each expert leaves out its own voxels; more than all of them is nothing guaranteed."""
    one, other = Interval(2.0, 0.8, 8, 3), Interval(3.0, 0.6, 2, 2)
    assert Interval.of_blend([one, other]) == (3.0, pytest.approx(0.4), 2, 2)
    assert Interval.of_blend([other, other, other]).guaranteed == 0


def entry(path: Path, volumes: FloatArray, head: Any) -> CachedSession:
    write_entry(path, volumes)
    metadata = {"entry": open_text(path)}
    save_file({**load_file(path), "foreground": head}, path, metadata=metadata)
    session = open_entry(path, subject_id="a")
    assert session is not None
    return session


def open_text(path: Path) -> str:
    from agi_core.host.tensor_file import open_tensors

    with open_tensors(path) as file:
        return str(file.metadata()["entry"])


@pytest.mark.parametrize("task", [TASK, VOLUMES])
def test_voxels_of_the_head_where_a_source_has_a_signal(tmp_path: Path, task: Task) -> None:
    """Errors elsewhere are those of a target of 1, and none of them is drawn."""
    network, rng = network_of(task), np.random.default_rng(1)
    volumes = rng.random((8, 3, 16, 16), dtype=np.float32) * np.float32(0.5)
    head = np.zeros((8, 16, 16), dtype=bool)
    head[:, 4:12, 4:12] = True
    volumes[:, :2, 6, 6] = 0  # no signal
    volumes[:, 2][~head] = 1
    volumes[:, 2, 6, 6] = 1
    session = entry(tmp_path / "a", volumes, head)
    drawn = sample(network, [session])
    stored = np.stack([session.read_slice(k)[0] for k in range(8)]).astype(np.float32)
    prediction = network.predict(torch.from_numpy(stored[:, :2]))[:, 0].numpy().clip(0, 1)
    counted = head & (stored[:, :2] != 0).any(axis=1)
    true = np.abs(prediction - stored[:, 2])[counted]
    assert drawn.features.shape == (18, VOXELS)
    assert drawn.error.max() <= true.max() + 1e-5 < 0.9
    assert drawn.error.mean() == pytest.approx(true.mean(), rel=0.03)
    readings = (network.readout @ drawn.features).clip(0, 1)
    assert np.abs(readings[:, None] - prediction[counted][None]).min(axis=1).max() < 1e-4
    again = sample(network, [session])
    np.testing.assert_array_equal(again.error, drawn.error)


def test_a_volume_without_a_head_at_its_ends_is_seen_as_it_is_predicted(tmp_path: Path) -> None:
    """The error is known where the head is one voxel."""
    network, rng = network_of(VOLUMES), np.random.default_rng(1)
    network.set_readout(np.r_[0.5, rng.normal(0, 0.02, 17)])  # nothing is clipped
    head = np.zeros((27, 16, 16), dtype=bool)
    head[9, 6, 6] = True
    session = entry(tmp_path / "a", rng.random((27, 3, 16, 16), dtype=np.float32), head)
    session.foreground_fraction[[0, 1, 2, 3, 25, 26]] = 0
    ((prediction, batch),) = predict_session(network, session, indices=[9])
    error = sample(network, [session]).error
    np.testing.assert_allclose(error, (prediction - batch.target).abs()[batch.foreground].item(), atol=1e-5)


@pytest.mark.parametrize("task", [TASK, VOLUMES])
def test_both_come_from_one_pass(task: Task) -> None:
    network, sources = network_of(task), torch.rand(16, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    layer = np.random.default_rng(2).normal(0, 0.1, network.readout.shape)
    both = WithError(network, layer).predict(sources)
    torch.testing.assert_close(both[:, :1], network.predict(sources), rtol=0, atol=1e-5)
    error = torch.einsum("f,bfhw->bhw", torch.from_numpy(layer).float(), network.features(sources))
    torch.testing.assert_close(both[:, 1], error.clamp(min=LEAST), rtol=0, atol=1e-5)
