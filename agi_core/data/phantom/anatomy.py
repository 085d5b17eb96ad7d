"""Anatomies of the built-in data and how one of them becomes a person: affine, smooth warps, ventricles, a flip.

Everything is a map of coordinates in mm (RAS), from the scanner to the anatomy. It is evaluated on a 4 mm lattice and
then interpolated, which is most of its speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agi_core.data.phantom.tissue import CSF

FloatArray = NDArray[np.float32]

HEADS = ("colin27", "icbm2009a")
BRAINS = ("ms07", "ms19")
ANATOMIES = (*HEADS, *BRAINS)
"""Two heads with skull and scalp, and two brains that are set into the skull of the first."""

LATTICE_MM = 4.0
HEAD_CENTRE_MM = np.array([0.0, -18.0, 14.0])
ANATOMY_DIR = Path(__file__).parents[1] / "anatomy"


@dataclass(frozen=True)
class Anatomy:
    """A head at 1 mm: the `codes` of `tissue`, uint8 (I, J, K), and, on a 4 mm lattice, what is needed to deform it."""

    name: str
    codes: NDArray[np.uint8]
    brain: FloatArray  # (I, J, K), 1 inside
    origin_mm: NDArray[np.float64]
    brain_depth_mm: FloatArray  # lattice; distance to the surface of the brain, 0 outside
    softness: FloatArray  # lattice; how much a place bends: 1 brain, 0.4 skull
    ventricle_growth: FloatArray  # (3,) + lattice; unit of growth: 1 mm at the steepest place


@cache
def load_anatomy(name: str) -> Anatomy:
    """One of `ANATOMIES`, from the package's own files."""
    codes, brain, ventricles, origin_mm = _head(name) if name in HEADS else _brain_in_skull(name)
    step = int(LATTICE_MM)
    coarse_brain = ndimage.uniform_filter(brain, step)[::step, ::step, ::step]
    steepness = np.stack(np.gradient(ndimage.gaussian_filter(ventricles, 5.0)[::step, ::step, ::step]))
    return Anatomy(
        name=name,
        codes=codes,
        brain=brain,
        origin_mm=origin_mm,
        brain_depth_mm=LATTICE_MM * ndimage.distance_transform_edt(coarse_brain > 0.5).astype(np.float32),
        softness=(0.4 + 0.6 * ndimage.gaussian_filter(coarse_brain, 1.5)).astype(np.float32),
        ventricle_growth=(steepness / np.linalg.norm(steepness, axis=0).max()).astype(np.float32),
    )


def _head(name: str) -> tuple[NDArray[np.uint8], FloatArray, FloatArray, NDArray[np.float64]]:
    """Codes, brain, ventricles (masks: 1 inside) and the place of voxel (0, 0, 0) in mm."""
    with np.load(ANATOMY_DIR / f"{name}.npz") as file:
        return file["codes"], *_masks(file), file["origin_mm"]


def _brain_in_skull(name: str) -> tuple[NDArray[np.uint8], FloatArray, FloatArray, NDArray[np.float64]]:
    """A brain on the grid of the first head, in its skull: CSF between them, a thinner skull where it is larger."""
    codes, _, _, origin_mm = _head(HEADS[0])
    with np.load(ANATOMY_DIR / f"{name}.npz") as file:
        step = 1 / file["voxel_mm"]
        start = (origin_mm - file["origin_mm"]) * step
        mixture, brain, ventricles = (
            ndimage.affine_transform(
                values.astype(np.float32), step, start, output_shape=codes.shape, order=1, cval=outside
            )
            for values, outside in zip((file["codes"], *_masks(file)), (CSF, 0, 0), strict=True)
        )
    brain, ventricles = (np.round(mask) for mask in (brain, ventricles))
    inside = ndimage.binary_dilation(brain) | (codes >= CSF)
    return np.where(inside, np.rint(mixture), codes).astype(np.uint8), brain, ventricles, origin_mm


def _masks(file: Mapping[str, NDArray[Any]]) -> tuple[FloatArray, FloatArray]:
    shape = file["codes"].shape
    brain, ventricles = (
        np.unpackbits(file[name], count=int(np.prod(shape))).reshape(shape).astype(np.float32)
        for name in ("brain", "ventricles")
    )
    return brain, ventricles


@dataclass(frozen=True)
class Pose:
    """A head's position: rotation about x, then y, then z through the head's centre, then a shift.

    It maps a place in the scanner to the place in the resting head that is found there.
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def apply(self, points_mm: FloatArray) -> FloatArray:
        """Map points (3, ...) in mm."""
        return _about_centre(rotation_matrix(self.rotation_deg), points_mm) + _column(self.shift_mm, points_mm.ndim)


@dataclass(frozen=True)
class Person:
    """One subject's head: an anatomy and the deformation that makes it another one."""

    anatomy: Anatomy
    matrix: NDArray[np.float64]  # (3, 3) about the head's centre
    displacement_mm: FloatArray  # (3,) + lattice of the anatomy
    flipped: bool

    def to_anatomy(self, points_mm: FloatArray) -> FloatArray:
        """Voxel coordinates (3, ...) in `anatomy.codes` of places (3, ...) in the resting head, in mm."""
        places_mm = _about_centre(self.matrix, points_mm)
        lattice = (places_mm - _column(self.anatomy.origin_mm, places_mm.ndim)) / LATTICE_MM
        places_mm += np.stack(
            [ndimage.map_coordinates(axis, lattice, order=1, mode="nearest") for axis in self.displacement_mm]
        )
        if self.flipped:
            places_mm[0] *= -1
        return np.asarray(places_mm - _column(self.anatomy.origin_mm, places_mm.ndim))


def mixture(site_key: int) -> dict[str, float]:
    """How often each anatomy occurs at a site: 40, 30, 20 and 10 %, in an order of the site's own."""
    order = np.random.default_rng(site_key).permutation(ANATOMIES)
    return dict(zip(map(str, order), (0.4, 0.3, 0.2, 0.1), strict=True))


def new_person(rng: np.random.Generator, anatomy: Anatomy) -> Person:
    """Draw a head: size (SD 3 %, and 2.5 % per axis), tilt (4 degrees), shear (2 %), smooth warps, mirrored or not.

    The warps (SD 3.5 and 1.4 mm) change over about 45 and 20 mm. They are weaker in the skull and hardly bend the
    midline, which the falx holds. The ventricles grow by -0.5 to 3 mm.
    """
    scale = np.exp(0.03 * rng.standard_normal() + 0.025 * rng.standard_normal(3))
    shear = np.eye(3) + np.triu(0.02 * rng.standard_normal((3, 3)), 1)
    matrix = rotation_matrix(4 * rng.standard_normal(3)) @ shear @ np.diag(scale)
    shape = anatomy.softness.shape
    warp_mm = np.zeros((3, *shape), dtype=np.float32)
    for sd_mm, length_mm in ((3.5, 16.0), (1.4, 6.0)):
        warp_mm += sd_mm * np.stack([smooth_noise(rng, shape, length_mm / LATTICE_MM) for _ in range(3)])
    # A place samples the anatomy nearer to the ventricle's middle, so that the ventricle appears larger.
    growth_mm = rng.uniform(-0.5, 3.0)
    flipped = bool(rng.random() < 0.5)
    warp_mm *= anatomy.softness
    x_mm = anatomy.origin_mm[0] + LATTICE_MM * np.arange(shape[0])
    warp_mm[0] *= 1 - 0.75 * np.exp(-((x_mm / 15) ** 2))[:, None, None]
    displacement_mm = warp_mm + growth_mm * anatomy.ventricle_growth
    return Person(anatomy, matrix, displacement_mm.astype(np.float32), flipped)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], length_vox: float) -> FloatArray:
    """A Gaussian random field of unit variance, smoothed by a Gaussian with SD `length_vox`."""
    pad = int(np.ceil(2 * length_vox))  # so that the variance is the same at the border
    field = rng.standard_normal([n + 2 * pad for n in shape], dtype=np.float32)
    field = ndimage.gaussian_filter(field, length_vox, truncate=3)[tuple(slice(pad, pad + n) for n in shape)]
    return np.asarray(field * (2 * np.sqrt(np.pi) * length_vox) ** (len(shape) / 2), dtype=np.float32)


def rotation_matrix(angles_deg: NDArray[np.float64] | tuple[float, float, float]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z (fixed axes, right-handed)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.deg2rad(angles_deg)), np.sin(np.deg2rad(angles_deg))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    matrix: NDArray[np.float64] = about_z @ about_y @ about_x
    return matrix


def _about_centre(matrix: NDArray[np.float64], points_mm: FloatArray) -> FloatArray:
    centre = _column(HEAD_CENTRE_MM, points_mm.ndim)
    return np.asarray(np.tensordot(matrix.astype(np.float32), points_mm - centre, axes=1) + centre)


def _column(values: NDArray[np.float64] | tuple[float, float, float], ndim: int) -> FloatArray:
    return np.asarray(values, dtype=np.float32).reshape(3, *[1] * (ndim - 1))
