"""An error model that sites calibrate together, without anybody's voxels: what they are asked, and what follows.

After the final test each site is asked twice about its validation subjects:

1. for the statistics of their errors, from which `agi_core.ridge` solves the error layer of all sites, and for each
   site the one of all other sites;
2. for counts of their scores (`agi_core.conformal`) by the layer of the others, which comes with the question; no site
   gets what follows from fewer of the others.

So no error is foreseen by a layer that has seen its site, as at a hospital that took no part. Counts are added.
"""

from collections.abc import Collection, Mapping

import numpy as np

from agi_core.errors import ProtocolError
from agi_core.protocol import Packed, pack, unpack
from agi_core.ridge import Statistics, Vector
from agi_core.uncertainty import fit, strength_of

COUNTS = "error_counts"
LARGEST_FEATURE = 1e4
"""That is believed of a site. A network's last features are normed and pass an activation, so none comes near."""
_LAYER = "error_layer"
Told = tuple[Statistics, int]  # of a site, and how many subjects they are of


def layers_of(told: Mapping[str, Told]) -> tuple[Vector, dict[str, Vector]]:
    """The error layer of all sites, two at least, and {site: that of all others}. Each subject counts alike."""
    strength = strength_of([statistics for statistics, _ in told.values()])

    def layer(sites: Collection[str]) -> Vector:
        parts, subjects = zip(*(told[site] for site in sites), strict=True)
        return fit(parts, weights=subjects, strength=strength)

    return layer(told), {site: layer([other for other in told if other != site]) for site in told}


def with_layer(packed: Packed, layer: Vector) -> Packed:
    """What the second question brings to a site: the model's weights, and the layer of all others."""
    return packed.beside(_LAYER, layer)


def without_layer(packed: Packed) -> Packed:
    """The model's weights of the second question. Raises ProtocolError."""
    return pack({name: array for name, array in unpack(packed).items() if name != _LAYER})


def layer_in(packed: Packed, *, features: int) -> Vector:
    """The layer that the second question brings.

    Raises:
        ProtocolError: there is none of so many finite numbers.
    """
    layer = unpack(packed).get(_LAYER)
    if layer is None or layer.shape != (features,) or layer.dtype != np.float64 or not np.isfinite(layer).all():
        raise ProtocolError(f"the question for counts of errors brings no layer of {features} numbers")
    return layer
