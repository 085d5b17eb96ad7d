"""A task's network, and all that its use needs to know. It is made once, and asked everywhere."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.config.schema import Task
from agi_core.errors import MismatchError, ProtocolError, RunError
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import spatial_multiple
from agi_core.models.resunet import CONVOLVE, ResUNet
from agi_core.pair_alignment import pair_alignment
from agi_core.prediction import autocast, through_windows
from agi_core.protocol import Packed, Weights, model_hash, pack, unpack
from agi_core.ridge import Vector
from agi_core.scenario import parse_scenario
from agi_core.target_alignment import TargetAlignment

CPU = torch.device("cpu")


class Network:
    """The network that a task describes, with random weights of the task's seed until others are loaded.

    Attributes:
        scenario: what it makes of what; it sees the sources in the scenario's order.
        reference: the source in the target's pose, which the alignment brings the others onto.
        module: sources (B, M, *space) in [0, 1], or slabs, -> (B, 1, *space), unbounded.
        device: where the module is.
        crop: size in voxels of a training crop, (rows, columns[, slices]); in 3-D also that of a window.
        neighbours: slices on either side that it sees of each slice; 2-D only.
        volumetric: whether it is 3-D, and so sees all slices of a volume at once.
        on_reference: what brings a training target onto the reference; None where it stays where it is.
        pairs: what brings one image onto another, for a blend; None where the network does not align its sources.
        multiple: what rows and columns are padded to, and cut back from.
    """

    def __init__(self, task: Task, *, device: torch.device = CPU, compiled: bool = False) -> None:
        """`compiled`: see `compile`."""
        self.scenario = parse_scenario(task.scenario)
        self.reference = self.scenario.reference(task.reference)
        self.module: ResUNet = build_model(
            task.model,
            sources=len(self.scenario.sources),
            reference=self.scenario.sources.index(self.reference),
            seed=task.seed,
        ).to(device)
        self.device, self.crop = device, task.crop
        self.neighbours, self.volumetric = task.model.neighbours, task.model.dims == 3
        self.on_reference = TargetAlignment.of(task)
        self.pairs = None if task.model.alignment == "none" else pair_alignment(task.model)
        self.multiple = spatial_multiple(task.model)
        if compiled:
            self.compile()

    @property
    def weights(self) -> Weights:
        """See `weights_of`."""
        return weights_of(self.module)

    @cached_property
    def manifest(self) -> str:
        """Names, dtypes and shapes of the weights, as they travel."""
        return pack(self.weights).manifest

    def load(self, weights: Weights) -> None:
        """Take over a copy of these weights, all of them. Raises RunError: they are of another model."""
        try:
            self.module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
        except RuntimeError:
            theirs, ours = (model_hash(pack(some).manifest) for some in (weights, self.weights))
            raise RunError(
                f"the weights are of model {theirs}, and this release builds model {ours} from the run's settings; use"
                " the release that wrote them"
            ) from None

    def load_packed(self, packed: Packed) -> None:
        """Take over the weights of a message.

        Raises:
            MismatchError: they are of another model than the one that this program builds from the task.
            ProtocolError: one is not finite. A private site would spend its budget on a model that can learn nothing.
        """
        if packed.manifest != self.manifest:
            raise MismatchError("model hash", theirs=model_hash(packed.manifest), ours=model_hash(self.manifest))
        weights = unpack(packed)
        for name, array in weights.items():
            if not np.isfinite(array).all():
                raise ProtocolError(f"the model that came is broken: {name} holds a number that is not finite")
        self.load(weights)

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Have training go through `torch.compile`, which makes one program of the network for each form of batch. Not
        so prediction: it meets slices of every size."""
        self.module.compile(backend=backend)

    def predict(self, sources: Tensor) -> Tensor:
        """Slices of any size (B, M, h, w) in [0, 1], slabs (B, M, 2n + 1, h, w) with neighbours, in 3-D all slices of
        one volume in their order -> (B, 1, h, w), float32, on the CPU, without gradients."""
        return self._through(self.module.forward, sources)

    @property
    def prior(self) -> Vector | None:
        """The coefficients of the prior, float64 (K,); None where the network has none."""
        prior = self.module.prior
        return None if prior is None else prior.coefficients.double().numpy(force=True)

    @property
    def prior_gram(self) -> Vector | None:
        """`Prior.gram`, float64 (K, K); None where the network has no prior, or one that was never solved."""
        prior = self.module.prior
        return prior.gram.double().numpy(force=True) if prior is not None and prior.gram.any() else None

    def set_prior(self, coefficients: Vector, *, gram: Vector | None = None) -> None:
        """Take over other coefficients of the prior, and the gram matrix of their data where it is the common one; the
        head stays, bias and all."""
        assert self.module.prior is not None  # noqa: S101  whoever solves a prior has asked for one
        self.module.prior.coefficients.copy_(torch.from_numpy(coefficients))
        if gram is not None:
            self.module.prior.gram.copy_(torch.from_numpy(gram))

    @property
    def readout(self) -> Vector:
        """The last, linear layer: the weight of each of the `features`, float64 (K + C,)."""
        return self.module.readout.double().numpy(force=True)

    def set_readout(self, readout: Vector) -> None:
        """Take over another last layer."""
        self.module.set_readout(torch.from_numpy(readout))

    def features(self, sources: Tensor, *, prior_alone: bool = False) -> Tensor:
        """What the last, linear layer sees of the same sources: (B, K + C, h, w), or the prior's alone (B, K, h, w)."""
        return self._through(self.module.prior_features if prior_alone else self.module.features, sources)

    def compared_target(self, sources: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The target (B, 1, h, w) of the same sources where training takes the loss, and which of its voxels count
        there, bool (B, 1, h, w): where the task aligns it, those that were imaged on the reference."""
        if self.on_reference is None:
            return target, torch.ones_like(target, dtype=torch.bool)
        return self.on_reference(sources, target)

    @property
    def aligns(self) -> bool:
        """Whether it brings its sources onto the reference."""
        return not isinstance(self.module.alignment, nn.Identity)

    def aligned(self, sources: Tensor) -> Tensor:
        """The same sources as its other layers see them, each on the reference: (B, M, h, w)."""
        return self._through(self.module.alignment, sources)

    def read_out(self, layers: Vector, sources: Tensor) -> Tensor:
        """As `predict`, through several last layers (L, K + C) at once: (B, L, h, w)."""
        dims = self.module.dims
        weights = torch.from_numpy(layers).float().to(self.device).reshape(*layers.shape, *[1] * dims)

        def function(sources: Tensor) -> Tensor:
            features = self.module.features(sources).float()
            with torch.autocast(self.device.type, enabled=False):  # the prior's large terms cancel, in float32 alone
                return CONVOLVE[dims](features, weights)

        return self._through(function, sources)

    def _through(self, function: Callable[[Tensor], Tensor], sources: Tensor) -> Tensor:
        self.module.eval()
        padded = partial(self._padded, function)
        return through_windows(padded, sources, crop=self.crop) if self.volumetric else padded(sources)

    def _padded(self, function: Callable[[Tensor], Tensor], sources: Tensor) -> Tensor:
        """A function of sources that are zero-padded to `multiple` in rows and columns, cut back."""
        height, width = sources.shape[-2:]
        padded = F.pad(sources, (0, -width % self.multiple, 0, -height % self.multiple)).to(self.device)
        with torch.inference_mode(), autocast(self.device):
            result = function(padded)
        return result[..., :height, :width].float().cpu()


def weights_of(module: nn.Module) -> Weights:
    """A module's weights as numpy arrays, in the order of its state dict; on the CPU they share its memory."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
