"""A glioma for the built-in data: necrotic core, enhancing rim, oedema that follows white matter, and mass effect."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from agi_core.data.phantom.tissue import Tissue

FloatArray = NDArray[np.float32]

CORE, OEDEMA, ENHANCING = 1, 2, 3  # labels of BraTS 2023
TUMOUR_TISSUES: Mapping[int, Tissue] = {
    CORE: Tissue(2300.0, 230.0, 0.94),
    ENHANCING: Tissue(1600.0, 125.0, 0.87),
    OEDEMA: Tissue(1500.0, 150.0, 0.86),
}
_MIN_DEPTH_MM = 12.0
_BORDER_MM = 0.6  # softness of the borders
_ROUGHNESS_MM = 2.5  # SD of the borders


@dataclass(frozen=True)
class Tumour:
    """Where it is and how large; lengths in mm."""

    centre_mm: FloatArray
    stretch: FloatArray  # (3,), of the ellipsoid
    core_mm: float  # radius
    rim_mm: float  # thickness
    oedema_mm: float  # reach in white matter
    mass_effect_mm: float
    uptake_mmol_l: float  # gadolinium in the rim

    def before_growth(self, points_mm: FloatArray) -> FloatArray:
        """Where the tissue at `points_mm` (3, ...) was before the tumour pushed it outwards."""
        offset_mm = points_mm - self.centre_mm.reshape(3, *[1] * (points_mm.ndim - 1))
        distance_mm = np.linalg.norm(offset_mm, axis=0)
        radius_mm = self.core_mm + self.rim_mm
        push_mm = self.mass_effect_mm * np.where(
            distance_mm < radius_mm, distance_mm / radius_mm, np.exp((radius_mm - distance_mm) / 15)
        )
        return np.asarray(points_mm - push_mm * offset_mm / np.maximum(distance_mm, 1e-6))

    def fractions(
        self, points_mm: FloatArray, *, roughness: FloatArray, white: FloatArray, tissue: FloatArray
    ) -> dict[int, FloatArray]:
        """How much of each voxel every part of the tumour fills; all arguments on one grid (...).

        Args:
            points_mm: voxel centres (3, ...).
            roughness: noise of unit variance for the borders.
            white: fraction of white matter, 0..1.
            tissue: fraction of grey and white matter, 0..1: oedema leaves CSF alone.
        """
        offset = (points_mm - self.centre_mm.reshape(3, 1, 1, 1)) / self.stretch.reshape(3, 1, 1, 1)
        distance_mm = np.linalg.norm(offset, axis=0) + _ROUGHNESS_MM * roughness
        reach_mm = self.oedema_mm * (0.15 + 0.85 * ndimage.gaussian_filter(white, 0.7)) * (1 + 0.4 * roughness)

        def inside(radius_mm: float | FloatArray) -> FloatArray:
            return np.asarray(special.expit((radius_mm - distance_mm) / _BORDER_MM), dtype=np.float32)

        core, solid = inside(self.core_mm), inside(self.core_mm + self.rim_mm)
        oedema = inside(self.core_mm + self.rim_mm + np.maximum(reach_mm, 0)) * tissue
        return {CORE: core, ENHANCING: solid - core, OEDEMA: np.maximum(oedema - solid, 0)}


def new_tumour(rng: np.random.Generator, points_mm: FloatArray, depth_mm: FloatArray) -> Tumour:
    """Draw a tumour with its centre at least 12 mm below the surface of the brain.

    Args:
        rng: source of all choices.
        points_mm: candidate places (3, ...).
        depth_mm: distance (...) of each to the brain's surface, 0 outside.
    """
    candidates = points_mm[:, depth_mm >= _MIN_DEPTH_MM]
    return Tumour(
        centre_mm=candidates[:, rng.integers(candidates.shape[1])],
        stretch=np.exp(0.15 * rng.standard_normal(3, dtype=np.float32)),
        core_mm=rng.uniform(5, 13),
        rim_mm=rng.uniform(3, 5.5),
        oedema_mm=rng.uniform(6, 22),
        mass_effect_mm=rng.uniform(1, 4),
        uptake_mmol_l=rng.uniform(0.35, 1.0),
    )


def labels_of(fractions: Mapping[int, FloatArray]) -> NDArray[np.uint8]:
    """The part that fills most of a voxel, if at least half; 0 elsewhere."""
    labels = np.zeros(fractions[CORE].shape, dtype=np.uint8)
    for label in (OEDEMA, ENHANCING, CORE):
        labels[fractions[label] >= 0.5] = label
    return labels
