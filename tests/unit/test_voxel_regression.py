from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from agi_core.config.load import load_config
from agi_core.network import Network
from agi_core.voxel_regression import AlignedRegression, VoxelRegression
from tests.support.cache_entries import write_entry
from tests.support.small_data import SMALL

rng = np.random.default_rng(0)


def sources(*shape: int) -> npt.NDArray[np.float32]:
    """Values that float16, in which the cache stores them, holds exactly."""
    return rng.random(shape, dtype=np.float32).astype(np.float16).astype(np.float32)


def test_an_exact_cubic_of_two_sources_is_recovered(tmp_path: Path) -> None:
    def cubic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 0.1 + 0.3 * a - 0.2 * b + 0.5 * a * b + 0.2 * a**3 - 0.4 * a * b**2 + 0.1 * b**3

    sessions = []
    for i in range(3):
        x = sources(4, 2, 12, 10)
        target = cubic(torch.from_numpy(x[:, :1]), torch.from_numpy(x[:, 1:])).numpy()
        sessions.append(write_entry(tmp_path / str(i), np.concatenate([x, target], axis=1)))
    unseen = torch.rand(2, 2, 7, 9)
    prediction = VoxelRegression.fit(sessions).predict(unseen)
    assert prediction.dtype == torch.float32
    # the stored targets are rounded to float16 (2^-12 of a value near 0.5), their mean effect on the fit is smaller
    torch.testing.assert_close(prediction, cubic(unseen[:, :1], unseen[:, 1:]), rtol=0, atol=1e-3)


def test_one_source_agrees_with_polyfit(tmp_path: Path) -> None:
    volumes = [sources(3, 2, 11, 8) for _ in range(2)]
    fit = VoxelRegression.fit([write_entry(tmp_path / str(i), volume) for i, volume in enumerate(volumes)])
    pooled = np.concatenate([volume.transpose(1, 0, 2, 3).reshape(2, -1) for volume in volumes], axis=1)
    coefficients = np.polyfit(pooled[0].astype(np.float64), pooled[1].astype(np.float64), deg=3)
    x = torch.rand(2, 1, 5, 6)
    expected = np.polyval(coefficients, x.numpy().astype(np.float64))
    np.testing.assert_allclose(fit.predict(x).numpy(), expected, rtol=0, atol=1e-6)


def test_equal_sources_are_no_obstacle(tmp_path: Path) -> None:
    """Monomials that depend on each other leave the fit free, not broken."""
    x = sources(3, 1, 9, 9)
    session = write_entry(tmp_path / "twins", np.concatenate([x, x, 0.5 * x], axis=1))
    twins = torch.from_numpy(np.concatenate([x, x], axis=1))
    np.testing.assert_allclose(VoxelRegression.fit([session]).predict(twins).numpy(), 0.5 * x, rtol=0, atol=1e-3)


def test_a_cubic_of_aligned_sources_is_the_prior_without_its_network() -> None:
    network = Network(load_config(None, overrides={}, assignments=[*SMALL, "model.prior=cubic"]).task)
    x, coefficients = torch.from_numpy(sources(3, 2, 11, 8)), np.linspace(-0.2, 0.3, 10)
    network.set_prior(coefficients)
    network.module.head.get_parameter("weight").data.zero_()
    network.module.head.get_parameter("bias").data.zero_()
    torch.testing.assert_close(AlignedRegression(network, coefficients).predict(x), network.predict(x))
    network.set_readout(np.ones(len(network.readout)))  # nothing else of it counts
    expected = network.features(x, prior_alone=True).double().movedim(1, -1).numpy() @ coefficients
    np.testing.assert_allclose(AlignedRegression(network, coefficients).predict(x)[:, 0], expected, atol=1e-6)
