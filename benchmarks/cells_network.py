"""One network for all cells of a vocabulary, as the benchmark of cells compares it with one network per cell."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.cells import Vocabulary
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig, spatial_multiple
from agi_core.scenario import Scenario

Priors = Callable[[Scenario, Tensor], Tensor]  # (cell, its sources (B, M, h, w)) -> what the network corrects


class AnyToAny(nn.Module):
    """A trunk for every cell, with a head per target.

    With `stems` each modality first gets `config.stem` channels by a convolution of its own, and an absent one zeros
    there; without, the trunk sees the modalities themselves, zeros for those absent (zero fill). `cell` is what the
    next call is asked for. Weights depend on `seed` alone.
    """

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig, *, stems: bool, priors: Priors | None, seed: int):
        super().__init__()
        self.names, self.priors, self.multiple = vocabulary.modalities, priors, spatial_multiple(config)
        self.cell = vocabulary.cells[0]
        width = config.stem if stems else 1
        bare = replace(config, stem=0, prior="none")
        self.trunk = build_model(bare, sources=width * len(self.names), seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.stems = nn.ModuleDict({name: _stem(width) for name in self.names} if stems else {})
            self.heads = nn.ModuleDict({name: nn.Conv2d(config.widths[0], 1, 1) for name in self.names})
        for head in self.heads.values() if priors is not None else ():
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def forward(self, sources: Tensor) -> Tensor:
        """Sources of `cell` (B, M, h, w) -> its target (B, 1, h, w)."""
        given = {
            name: self.stems[name](channel) if self.stems else channel
            for name, channel in zip(self.cell.sources, torch.split(sources, 1, dim=1), strict=True)
        }
        absent = torch.zeros_like(next(iter(given.values())))
        features = self.trunk.features(torch.cat([given.get(name, absent) for name in self.names], dim=1))
        prediction: Tensor = self.heads[self.cell.target](features[:, 1:])
        return prediction if self.priors is None else prediction + self.priors(self.cell, sources)


class CellOf:
    """One cell of the network, as a `Predictor`."""

    neighbours, volumetric = 0, False

    def __init__(self, network: AnyToAny, cell: Scenario) -> None:
        self.network, self.cell = network, cell

    def predict(self, sources: Tensor) -> Tensor:
        """See `Predictor`."""
        height, width = sources.shape[-2:]
        multiple = self.network.multiple
        self.network.cell = self.cell
        self.network.eval()
        with torch.inference_mode():
            prediction: Tensor = self.network(F.pad(sources, (0, -width % multiple, 0, -height % multiple)))
        return prediction[..., :height, :width]


def _stem(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.GroupNorm(1, width), nn.LeakyReLU(0.1))


def is_held(key: str, trained: set[Scenario]) -> bool:
    """Whether a site that trains these cells trains this weight: stems are of sources, heads of targets, the trunk of
    all."""
    room, name, *_ = key.split(".")
    match room:
        case "stems":
            return any(name in cell.sources for cell in trained)
        case "heads":
            return any(name == cell.target for cell in trained)
        case _:
            return True
