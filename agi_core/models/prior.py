"""The prior: what a voxel's own sources tell of its target, as a cubic polynomial that is solved and not trained.

The network adds the residual. A polynomial of the aligned sources has no spatial context, so a few subjects determine
it, and a scanner's contrast is mostly in it.
"""

from math import comb

import torch
from torch import Tensor, nn

DEGREE = 3


def monomial_count(sources: int) -> int:
    """K, the number of monomials of up to DEGREE of so many sources: 4 of one, 10 of two, 20 of three."""
    return comb(sources + DEGREE, DEGREE)


def monomials(sources: Tensor) -> Tensor:
    """All monomials up to DEGREE of the sources: (B, M, *space) -> (B, K, *space), the first is 1."""
    columns = [torch.ones_like(sources[:, 0])]
    terms = [(0, columns[0])]  # of one degree, each with the last of its sources
    for _ in range(DEGREE):
        terms = [(m, column * sources[:, m]) for last, column in terms for m in range(last, sources.shape[1])]
        columns += [column for _, column in terms]
    return torch.stack(columns, dim=1)


class Prior(nn.Module):
    """coefficients . monomials(sources). The coefficients are zero until they are solved (`agi_core.ridge`), and get no
    gradient.

    `gram` is the mean of monomials monomials' (K, K) over the voxels that the coefficients were solved from, or zero.
    It is no part of the prediction: a private prior is a step in its coordinates (`agi_core.privacy.private_prior`).
    """

    def __init__(self, sources: int) -> None:
        super().__init__()
        count = monomial_count(sources)
        self.coefficients = nn.Parameter(torch.zeros(count), requires_grad=False)
        self.gram = nn.Parameter(torch.zeros(count, count), requires_grad=False)

    def forward(self, aligned: Tensor) -> Tensor:
        """Aligned sources (B, M, *space) -> (B, 1, *space)"""
        terms = self.coefficients.reshape(-1, *[1] * (aligned.dim() - 2)) * monomials(aligned)  # float32 under autocast
        return terms.sum(dim=1, keepdim=True)
