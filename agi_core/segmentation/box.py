"""The part of a volume in which something is."""

import numpy as np

from agi_core.data.intensity import BoolArray


def box_of(mask: BoolArray, *, margin: int) -> tuple[slice, ...]:
    """The smallest box with all of a mask (I, J, K) that is not empty, and so many voxels around it as there are."""
    places = np.argwhere(mask)
    low, high = places.min(axis=0) - margin, places.max(axis=0) + margin + 1
    return tuple(slice(max(int(a), 0), int(b)) for a, b in zip(low, high, strict=True))
