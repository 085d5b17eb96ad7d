"""Operations of a training step that a CAGR convolution asks of a GPU, counted on a CPU: one sample after the other, as
a CPU works, and all together, as a GPU does.

    python -m benchmarks.cagr_operations
"""

from unittest.mock import patch

import torch

from agi_core.models import agi_net
from agi_core.models.model_config import ModelConfig
from benchmarks.counted import counted

SAMPLES, SOURCES = 16, 2


def main() -> None:
    print("| widths | plain | one after the other | together | times plain |\n|---|---|---|---|---|")
    for widths in ((16, 32, 64), (64, 128, 256, 512)):
        plain = operations(ModelConfig(conv="plain", widths=widths), apart=True)
        apart, together = (operations(ModelConfig(widths=widths), apart=apart) for apart in (True, False))
        name = "-".join(map(str, widths))
        print(f"| {name} | {plain} | {apart} | {together} | {together / plain:.1f} |", flush=True)


def operations(config: ModelConfig, *, apart: bool) -> int:
    """Of forward and backward."""
    model = agi_net.build_model(config, sources=SOURCES)
    x, parameters = torch.rand(SAMPLES, SOURCES, 16, 16), [*model.parameters()]
    with patch.object(agi_net, "one_by_one", lambda x: apart):
        return counted(lambda: torch.autograd.grad(model(x).sum(), parameters)).operations


if __name__ == "__main__":
    main()
