"""Predictors made of a function, for tests of what is done with their predictions."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Made:
    """A `Predictor` whose predictions the function makes."""

    function: Callable[[Tensor], Tensor]
    neighbours: int = 0
    volumetric: bool = False

    def predict(self, sources: Tensor) -> Tensor:
        return self.function(sources)
