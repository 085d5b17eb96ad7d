"""The part of a network that is trained privately; the rest keeps the weights that it was given, bit for bit.

The noise of a step has norm sigma C sqrt(parameters). The signal has norm at most C q N, however many parameters there
are. So fewer parameters mean less noise per signal. That pays if the frozen rest is useful already: after pre-training
on public data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

PARTS = {
    "all": "whole model",
    "norms": "norms, biases, first and last convolution",
    "last": "last block and head",
    "adapters": "adapters and head",
}
"""The values of `privacy.trainable`, and what each is."""


def names_of(part: str, axes: Mapping[str, int]) -> set[str]:
    """The names of the parameters in a part of a ResUNet, one of `PARTS`.

    `axes` holds all parameters of the network: {name: number of axes}.
    `norms` holds the first convolution too, so that the input of every norm needs a gradient. Without that, torch 2.13
    crashes in the CPU's backward pass of a channels-last GroupNorm. The coefficients of a prior are in no part: they
    are solved, and frozen in training.
    """
    blocks = {int(name.split(".")[1]) for name in axes if name.startswith("decoder.")}
    last = f"decoder.{max(blocks, default=0)}."

    def chosen(name: str) -> bool:
        match part:
            case "all":
                return True
            case "norms":
                return axes[name] == 1 or name.startswith(("encoder.0.conv1.", "head."))
            case "last":
                return name.startswith((last, "head."))
            case "adapters":
                return ".adapter." in name or name.startswith("head.")
        raise ValueError(f"no part of a network is called {part}")

    return {name for name in axes if chosen(name) and not name.startswith("prior.")}


def parameters_of(part: str, model: nn.Module) -> dict[str, nn.Parameter]:
    """The named parameters of a part of a ResUNet: one of `PARTS`."""
    named = dict(model.named_parameters())
    names = names_of(part, {name: parameter.dim() for name, parameter in named.items()})
    return {name: parameter for name, parameter in named.items() if name in names}


@contextmanager
def training_only(part: str, model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters of the part. Within the block everything else in the model is frozen."""
    chosen = list(parameters_of(part, model).values())
    were = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    try:
        yield chosen
    finally:
        for parameter, trainable in were:
            parameter.requires_grad_(trainable)
