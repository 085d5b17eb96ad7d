"""The segmentation network: four real modalities of BraTS in, the three targets out. It is trained once and frozen.

It stands in for the network that a hospital has: synthetic volumes are judged by what such a network still finds with
one of them in the place of a real scan. Its file also keeps a voxel regression of each modality from the other three,
fitted on the same subjects: what the simplest synthesis would reach.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save
from torch import Tensor

from agi_core.data.intensity import BoolArray
from agi_core.data.nifti import FloatArray
from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors
from agi_core.models.prior import monomials
from agi_core.prediction import through_windows
from agi_core.segmentation.box import box_of
from agi_core.segmentation.labels import TARGETS
from agi_core.segmentation.visits import MODALITIES
from agi_core.voxel_regression import VoxelRegression

LARGEST = 512  # channels, and voxels of a patch along an axis


@dataclass(frozen=True)
class SegmenterSettings:
    """Of the network and its training. `patch` is (rows, columns, slices), in multiples of 4."""

    channels: tuple[int, ...] = (16, 32, 64)
    patch: tuple[int, int, int] = (64, 64, 16)
    steps: int = 1500
    batch_size: int = 2
    learning_rate: float = 2e-3
    seed: int = 0


class Segmenter:
    """The network with its settings, `regressions` by the modality that they make, and the fingerprints of the visits
    that trained it, of the first scan's file and of its image (`trained_on`)."""

    def __init__(self, settings: SegmenterSettings) -> None:
        from monai.networks.nets.unet import UNet  # here, because MONAI takes seconds to import

        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.module = UNet(
                spatial_dims=3,
                in_channels=len(MODALITIES),
                out_channels=len(TARGETS),
                channels=settings.channels,
                strides=(2,) * (len(settings.channels) - 1),
                num_res_units=1,
                norm="INSTANCE",
            )
        self.regressions: dict[str, VoxelRegression] = {}
        self.trained_on: Sequence[str] = ()

    def segment(self, volumes: Mapping[str, FloatArray]) -> dict[str, BoolArray]:
        """The masks (I, J, K) of `TARGETS` from `MODALITIES` (I, J, K), each in [0, 1] on its own percentiles."""
        brain = np.any([volumes[modality] != 0 for modality in MODALITIES], axis=0)  # nothing is segmented outside
        box = box_of(brain, margin=0)
        self.module.eval()
        sources = _stacked([volumes[modality][box] for modality in MODALITIES])
        logits = through_windows(self.module, sources, crop=self.settings.patch).numpy()  # (D, C, H, W)
        masks = {target: np.zeros_like(brain) for target in TARGETS}
        for c, mask in enumerate(masks.values()):
            mask[box] = (logits[:, c].transpose(2, 1, 0) > 0) & brain[box]
        return masks

    def regressed(self, target: str, volumes: Mapping[str, FloatArray]) -> FloatArray:
        """The modality `target` (I, J, K) by voxel regression from the other three, in [0, 1]; 0 where these are 0."""
        sources = _stacked([volumes[modality] for modality in MODALITIES if modality != target])
        made = self.regressions[target].predict(sources).clamp(0, 1) * (sources != 0).any(dim=1, keepdim=True)
        return np.ascontiguousarray(made[:, 0].numpy().transpose(2, 1, 0))

    @property
    def hash(self) -> str:
        """Of the file's content: 16 hexadecimal digits."""
        return hashlib.sha256(self._content()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Keep it in a safetensors file. Raises RunError where that cannot be written."""
        atomic.write_bytes(path, self._content())

    def _content(self) -> bytes:
        tensors = {f"network {name}": tensor.numpy() for name, tensor in self.module.state_dict().items()}
        tensors |= {f"regression {name}": fit.coefficients for name, fit in self.regressions.items()}
        note = {"settings": asdict(self.settings), "trained_on": list(self.trained_on)}
        return save(tensors, metadata={"segmenter": json.dumps(note)})


def read_segmenter(path: Path) -> Segmenter:
    """The segmenter of a file.

    Raises:
        RunError: there is no such file, or it holds something else.
    """
    try:
        with open_tensors(path) as file:
            note = json.loads(file.metadata()["segmenter"])
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = note["settings"]
        lists = {name: tuple(settings[name]) for name in ("channels", "patch")}
        segmenter = Segmenter(_checked(SegmenterSettings(**settings | lists)))
        segmenter.module.load_state_dict(
            {name.removeprefix("network "): torch.from_numpy(t) for name, t in tensors.items() if "network " in name}
        )
        segmenter.regressions = {target: VoxelRegression(tensors[f"regression {target}"]) for target in MODALITIES}
        segmenter.trained_on = [*note["trained_on"]]
        _check_content(segmenter)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise RunError(
            f"{path} is no segmentation network of this release; train one with: python -m agi_core segment --help"
        ) from None
    return segmenter


def _checked(settings: SegmenterSettings) -> SegmenterSettings:
    """Raise ValueError where nothing could be built of a file's settings: it may come from anywhere."""
    patch, channels, least = settings.patch, settings.channels, 2 ** (len(settings.channels) - 1)
    sizes = [*patch, *channels]
    if not all(isinstance(size, int) and 0 < size <= LARGEST for size in sizes) or not 1 < len(channels) < 7:
        raise ValueError("sizes")
    if len(patch) != 3 or any(size % least for size in patch):
        raise ValueError("patch")
    return settings


def _check_content(segmenter: Segmenter) -> None:
    """Raise ValueError where it could not be used."""
    if not all(isinstance(its, str) for its in segmenter.trained_on):
        raise ValueError("trained_on")
    features = monomials(torch.zeros(1, len(MODALITIES) - 1, 1)).shape[1]
    arrays = [fit.coefficients for fit in segmenter.regressions.values()]
    if not all(array.shape == (features,) and np.isfinite(array).all() for array in arrays):
        raise ValueError("regressions")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in segmenter.module.state_dict().values()):
        raise ValueError("network")


def _stacked(volumes: Sequence[FloatArray]) -> Tensor:
    """Volumes (I, J, K) as slices (D, M, H, W)."""
    return torch.from_numpy(np.stack(volumes).transpose(3, 0, 2, 1).copy())
