"""Statistics of real networks on prepared sessions, against the features and targets themselves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from agi_core.config.load import load_config
from agi_core.config.schema import GridConfig, Task
from agi_core.data.cached_session import CachedSession
from agi_core.evaluation import squared_error
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.readout import SLICES, own_readout, readout_statistics
from agi_core.ridge import Statistics
from tests.support.cache_entries import write_entry
from tests.support.smooth_images import texture

TASK = Task(scenario="T1,T2:PD", model=ModelConfig(widths=(8, 8), prior="cubic"))
VOLUMES = Task(
    scenario="T1,T2:PD", model=ModelConfig(dims=3, widths=(8, 8), prior="cubic"), grid=GridConfig(crop=(16, 16, 16))
)
rng = np.random.default_rng(0)


def session(path: Path, *, depth: int = SLICES) -> CachedSession:
    return write_entry(path, rng.random((depth, 3, 16, 16), dtype=np.float32))


@pytest.mark.parametrize(
    ("task", "independent", "chosen"),
    [
        (TASK, False, (0, 3, 6, 9, 12, 15)),  # two subjects share SLICES_OF_ALL
        (TASK, True, (0, 5, 10, 15)),
        (VOLUMES, False, range(16)),
    ],
)
def test_they_are_means_over_the_voxels_of_each_subject(
    tmp_path: Path, task: Task, independent: bool, chosen: Sequence[int]
) -> None:
    network, sessions = Network(task), [session(tmp_path / name, depth=16) for name in ("a", "b")]
    with torch.no_grad():
        network.module.head.weight.normal_()
    told = readout_statistics(network, sessions, independent=independent)
    assert [*told] == ["a", "b"]
    for one in sessions:
        images = torch.from_numpy(np.stack([one.read_slice(k)[0] for k in chosen])).float()
        features = network.features(images[:, :2]).movedim(1, -1).reshape(-1, 10 + 8).double().numpy()
        target = images[:, 2].double().numpy().ravel()
        expected = Statistics(features.T @ features / len(target), features.T @ target / len(target))
        np.testing.assert_allclose(told[one.subject_id].gram, expected.gram, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(told[one.subject_id].moment, expected.moment, rtol=1e-6, atol=1e-9)
        prediction = network.predict(images[:, :2]).double().numpy().ravel()
        error = told[one.subject_id].mean_square_error(network.readout)
        assert error == pytest.approx(np.mean((prediction - target) ** 2), rel=1e-4)


@pytest.mark.parametrize("aligned", ["false", "true"])
def test_a_volume_without_a_head_at_its_ends_is_seen_as_it_is_predicted(tmp_path: Path, aligned: str) -> None:
    """Where windows lie, and how a target moves through the plane, depends on all slices."""
    settings = ["scenario='T2:PD'", "reference=T2", "model.dims=3", "model.widths=[4,4]", "model.conv=plain"]
    settings += ["model.prior=cubic", "model.alignment=affine", "grid.crop=[16,16,16]"]
    task = load_config(None, overrides={}, assignments=[*settings, f"training.align_target={aligned}"]).task
    network, volume = Network(task), 0.1 + 0.8 * texture(27, 24, 24, detail=6)[0, 0].numpy()
    network.set_readout(np.r_[0.5, np.random.default_rng(0).normal(0, 0.02, 7)])  # nothing is clipped
    one = write_entry(tmp_path / "a", np.stack([volume, np.roll(volume, 2, axis=0)], axis=1).astype(np.float32))
    one.foreground_fraction[[0, 1, 2, 3, 25, 26]] = 0
    (told,) = readout_statistics(network, [one]).values()
    (error,) = squared_error(network, [(one, range(4, 25))]).values()
    assert told.mean_square_error(network.readout) == pytest.approx(error, rel=1e-4)


def test_a_volume_is_held_in_double_precision_a_few_slices_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All features of all its voxels are much."""
    doubled = list[int]()

    def double(tensor: torch.Tensor) -> torch.Tensor:
        doubled.append(tensor.numel())
        return tensor.to(torch.float64)

    monkeypatch.setattr(torch.Tensor, "double", double)
    readout_statistics(Network(VOLUMES), [session(tmp_path / "a", depth=16)])
    assert max(doubled) == SLICES * 16 * 16 * (10 + 8)


def test_few_subjects_tell_of_more_slices_unless_they_are_to_be_independent(tmp_path: Path) -> None:
    """A private step is a sum of terms of one subject each: who else is there may change none of them."""
    network, sessions = Network(TASK), [session(tmp_path / str(n), depth=16) for n in range(4)]

    def gram_of_first(count: int, *, independent: bool) -> list[float]:
        told = readout_statistics(network, sessions[:count], prior_alone=True, independent=independent)
        return list(told["0"].gram.ravel())

    assert gram_of_first(1, independent=True) == gram_of_first(4, independent=True)
    assert gram_of_first(1, independent=False) != gram_of_first(4, independent=False)
    assert gram_of_first(3, independent=False) == gram_of_first(4, independent=True)  # SLICES of each are enough


def test_a_subject_without_a_slice_of_a_head_is_left_out(tmp_path: Path) -> None:
    whole, empty = session(tmp_path / "whole"), session(tmp_path / "empty")
    empty.foreground_fraction[:] = 0
    assert [*readout_statistics(Network(TASK), [empty, whole])] == ["whole"]


def test_a_subject_whose_target_was_imaged_nowhere_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen, unseen = Network(TASK), session(tmp_path / "seen"), session(tmp_path / "unseen")
    of_unseen = [torch.from_numpy(unseen.read_slice(k)[0][2]).float() for k in range(SLICES)]

    def compared(sources: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        imaged = not any(torch.equal(target[0, 0], its) for its in of_unseen)
        return target, torch.full_like(target, imaged, dtype=torch.bool)

    monkeypatch.setattr(network, "compared_target", compared)
    assert [*readout_statistics(network, [unseen, seen])] == ["seen"]


def test_an_own_last_layer_fits_best_and_leaves_the_network_alone(tmp_path: Path) -> None:
    network, sessions = Network(TASK), [session(tmp_path / name) for name in ("a", "b", "c")]
    before = {name: array.copy() for name, array in network.weights.items()}
    own = own_readout(network, sessions)
    assert all(np.array_equal(before[name], array) for name, array in network.weights.items())
    common = Statistics.mean([*readout_statistics(network, sessions).values()])
    assert common.mean_square_error(own) < common.mean_square_error(network.readout)
