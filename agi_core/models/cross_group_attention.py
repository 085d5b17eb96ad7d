"""Cross-group attention: each channel is weighted by what its own group and the other groups hold.

Reconstructed from the text of Song et al. (arXiv 2411.14684), whose equations were not available to us:

    z_i   = mean over space of x_i                        what group i holds
    z_s,i = group i of channel_shuffle(z)                 what all groups hold, one channel in turn from each
    A_i   = sigmoid(W_i [z_i, z_s,i] + b_i)               a grouped 1-tap convolution
    x~_i  = A_i x_i

W and b start at zero, so A starts at 1/2 everywhere: a constant, which the GroupNorm behind the convolution removes.
"""

from math import prod

import torch
from torch import Tensor, nn


def mean_over_space(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """(B, C, *space) -> (B, C) in `dtype`.

    It is computed as a sum and a division, because the gradient of Tensor.mean leaves the channels-last order and was
    4 times slower.
    """
    return x.sum(tuple(range(2, x.dim())), dtype=dtype) / prod(x.shape[2:])


def channel_shuffle(z: Tensor, groups: int) -> Tensor:
    """(B, C) -> (B, C): channel j of group i moves to place j * groups + i, so that every group gets some of each."""
    return z.reshape(len(z), groups, z.shape[1] // groups).transpose(1, 2).flatten(1)


class CrossGroupAttention(nn.Module):
    """A of the module's equations. Groups are contiguous along the channels, and `groups` divides `channels`.

    With one channel per group (the first convolution of a network) the shuffle moves nothing. Without `shuffle` z_s is
    z, and a group sees itself alone.
    """

    def __init__(self, channels: int, *, groups: int, shuffle: bool = True) -> None:
        super().__init__()
        self.groups, self.shuffle = groups, shuffle
        per_group = channels // groups
        self.weight = nn.Parameter(torch.zeros(groups, per_group, 2 * per_group))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, z: Tensor) -> Tensor:
        """Channel means (B, C) -> attention (B, C) in (0, 1)"""
        shuffled = channel_shuffle(z, self.groups) if self.shuffle else z
        intra, inter = (v.reshape(len(z), *self.weight.shape[:2]) for v in (z, shuffled))
        both = torch.cat([intra, inter], dim=2)  # (B, G, 2 C/G)
        logits = torch.einsum("bgi,goi->bgo", both, self.weight).flatten(1) + self.bias
        return torch.sigmoid(logits)
