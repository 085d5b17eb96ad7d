"""Small real trees: NIfTI files in the layouts that hospitals have, written once per test session."""

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from agi_core.config import RunConfig, load_config
from agi_core.privacy.noise import InsecureNoiseWarning, NoiseSource, insecure_seeded_noise

SHAPE = (40, 36, 8)
AFFINE = np.diag([4.0, 4.0, 8.0, 1.0])
SMALL = (
    "model.widths=[8,16]",
    "model.alignment=none",
    "grid.crop=[32,32]",
    "training.local_steps=2",
    "training.batch_size=2",
    "rounds=2",
    "evaluation.validation_slices=4",
)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def seeded() -> Callable[[int], NoiseSource]:
    """Repeatable privacy noise, with its warning taken."""

    def source(seed: int) -> NoiseSource:
        with pytest.warns(InsecureNoiseWarning):
            return insecure_seeded_noise(seed)

    return source


def write_head(path: Path, *, seed: int, contrast: float) -> None:
    """A scan that has what the loaders look for: an ellipsoid head with inner structure, and noise around it."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    radius = (i / 0.8) ** 2 + (j / (0.75 + 0.02 * (seed % 5))) ** 2 + (k / 1.2) ** 2
    head = radius < 1
    inner = 0.5 + 0.5 * np.sin(contrast * (5 * i + 3 * j * j + seed % 7)) * np.exp(-radius)
    data = 600 * inner * head + np.abs(rng.normal(0, 12, SHAPE))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data.astype(np.int16), AFFINE), path)


def write_ixi(root: Path, sites: Mapping[str, int]) -> Path:
    """`root`/IXI-T1/IXI100-Guys-1000-T1.nii.gz and so on, one folder per modality."""
    number = 100
    for site, count in sites.items():
        for _ in range(count):
            for m, modality in enumerate(("T1", "T2", "PD")):
                name = f"IXI{number}-{site}-{1000 + number}-{modality}.nii.gz"
                write_head(root / f"IXI-{modality}" / name, seed=number, contrast=1.0 + 0.4 * m)
            number += 1
    return root


@pytest.fixture(scope="session")
def ixi_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals with 5, 4 and 3 subjects."""
    return write_ixi(tmp_path_factory.mktemp("data") / "ixi", {"Guys": 5, "HH": 4, "IOP": 3})


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_config(ixi_dir: Path, cache_dir: Path) -> RunConfig:
    """A whole run on `ixi_dir` that takes a second."""
    overrides = {"data.dir": str(ixi_dir), "data.cache_dir": str(cache_dir), "clients": 3}
    return load_config(None, overrides=overrides, assignments=SMALL)
