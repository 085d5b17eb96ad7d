"""Scanners of the built-in data: the sequences of each site, and how they make an image of a head.

The sequences follow the published IXI protocols (Guy's: Philips 1.5 T; HH: Philips 3 T; IOP: GE 1.5 T) and common
glioma protocols. SNR, shading and gain are our choice.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agi_core.data.phantom.anatomy import HEAD_CENTRE_MM, LATTICE_MM
from agi_core.data.phantom.tissue import Sequence

FloatArray = NDArray[np.float32]
Layout = Literal["ixi", "brats"]

_SD_OF_FWHM = 1 / (2 * np.sqrt(2 * np.log(2)))


@dataclass(frozen=True)
class Scanner:
    """One site's machine: field strength, SNR of brain tissue, coil shading (SD of its logarithm), gain, sequences."""

    field_t: float
    snr: float
    shading: float
    gain: tuple[float, float]
    sequences: Mapping[str, Sequence]


def _ixi(
    t1: Sequence, *, tr_ms: float, te_ms: tuple[float, float], slice_mm: float, in_plane_mm: float
) -> dict[str, Sequence]:
    t2, pd = (Sequence("SE", tr_ms, te, slice_mm=slice_mm, in_plane_mm=in_plane_mm) for te in te_ms)
    return {"T1": replace(t1, relative_snr=1.2), "T2": t2, "PD": replace(pd, relative_snr=1.8)}


def _brats(t1: Sequence, t2w: Sequence, t2f: Sequence) -> dict[str, Sequence]:
    t1 = replace(t1, relative_snr=1.2)
    return {"t1n": t1, "t1c": t1, "t2w": t2w, "t2f": t2f}


SCANNERS: Mapping[Layout, Mapping[str, Scanner]] = {
    "ixi": {
        "Guys": Scanner(1.5, 26, 0.08, (0.8, 1.2), _ixi(
            Sequence("MPRAGE", 2000, 4.6, 850, slice_mm=1.2, in_plane_mm=0.94),
            tr_ms=8178, te_ms=(100, 8), slice_mm=1.25, in_plane_mm=0.94)),
        "HH": Scanner(3.0, 34, 0.17, (1.2, 2.0), _ixi(
            Sequence("MPRAGE", 2300, 4.6, 950, slice_mm=1.2, in_plane_mm=0.94),
            tr_ms=5725, te_ms=(100, 8), slice_mm=1.25, in_plane_mm=0.94)),
        "IOP": Scanner(1.5, 17, 0.11, (0.4, 0.7), _ixi(
            Sequence("SPGR", 17, 4.2, flip_deg=25, slice_mm=1.5, in_plane_mm=1.1),
            tr_ms=4200, te_ms=(85, 15), slice_mm=2.0, in_plane_mm=1.1)),
    },
    "brats": {
        "A": Scanner(3.0, 34, 0.12, (1.0, 1.6), _brats(
            Sequence("MPRAGE", 2100, 3, 1000),
            Sequence("SE", 5000, 100),
            Sequence("FLAIR", 9000, 120, 2500))),
        "B": Scanner(1.5, 20, 0.08, (0.5, 0.9), _brats(
            Sequence("SE", 550, 12, slice_mm=4.0),
            Sequence("SE", 3800, 90, slice_mm=4.0),
            Sequence("FLAIR", 8000, 110, 2200, slice_mm=4.0))),
    },
}  # fmt: skip


def scanner_of(layout: Layout, site: str) -> Scanner:
    """The scanner of a site. For an unknown site its name decides: it gets a known scanner with other settings."""
    known = SCANNERS[layout]
    if site in known:
        return known[site]
    rng = np.random.default_rng(zlib.crc32(site.encode()))
    base = list(known.values())[rng.integers(len(known))]
    snr, shading, gain, tr, te = np.exp(rng.uniform(-0.2, 0.2, 5) * (1, 1, 3, 0.5, 0.5))
    return replace(
        base,
        snr=base.snr * snr,
        shading=base.shading * shading,
        gain=(base.gain[0] * gain, base.gain[1] * gain),
        sequences={
            modality: replace(sequence, tr_ms=sequence.tr_ms * tr, te_ms=sequence.te_ms * te)
            for modality, sequence in base.sequences.items()
        },
    )


@dataclass(frozen=True)
class Grid:
    """Axial voxel grid around the head's centre, axes in RAS order."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel index -> mm, float64 (4, 4)."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = HEAD_CENTRE_MM - (np.array(self.shape) - 1) / 2 * self.spacing_mm
        return affine

    def axes_mm(self) -> list[NDArray[np.float64]]:
        """Positions of the voxel centres along each axis."""
        return [o + s * np.arange(n) for o, s, n in zip(self.affine[:3, 3], self.spacing_mm, self.shape, strict=True)]


SLICES = Grid((128, 128, 20), (1.5, 1.75, 5.0))
ISOTROPIC = Grid((128, 144, 112), (1.5, 1.5, 1.5))


def lattice_mm(grid: Grid) -> FloatArray:
    """Points (3, ...) in mm of a 4 mm lattice that covers the grid and the thickness of its slices."""
    axes = [np.arange(axis[0] - LATTICE_MM, axis[-1] + 2 * LATTICE_MM, LATTICE_MM) for axis in grid.axes_mm()]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def from_lattice(values: FloatArray, grid: Grid, *, shift_mm: float = 0.0) -> FloatArray:
    """Interpolate `values` (..., lattice of the grid) linearly at the voxels, shifted along the slice axis.

    Returns (..., I, J, K).
    """
    for axis, positions_mm, shift in zip((-3, -2, -1), grid.axes_mm(), (0.0, 0.0, shift_mm), strict=True):
        positions = (positions_mm + shift - positions_mm[0]) / LATTICE_MM + 1
        below = np.floor(positions).astype(int)
        above = (positions - below).astype(np.float32).reshape(-1, *[1] * (-axis - 1))
        values = np.take(values, below, axis) * (1 - above) + np.take(values, below + 1, axis) * above
    return values


def at_voxels(volume: FloatArray, coordinates: FloatArray, grid: Grid, *, shift_mm: float = 0.0) -> FloatArray:
    """An anatomy's `volume` at the centres of the voxels, shifted along the slice axis: (I, J, K) of the grid.

    `coordinates`: voxel coordinates (3, ...) in `volume` of the points of `lattice_mm(grid)`.
    """
    points = from_lattice(coordinates, grid, shift_mm=shift_mm)
    return np.asarray(ndimage.map_coordinates(volume, points, order=1, output=np.float32))


def sample(volume: FloatArray, coordinates: FloatArray, grid: Grid, sequence: Sequence) -> FloatArray:
    """What the sequence's slice profile and in-plane resolution see of `volume`; arguments as in `at_voxels`.

    The slice profile is a Gaussian, read at its two Gauss-Hermite nodes: one SD below and one SD above.
    """
    slice_sd_mm = sequence.slice_mm * _SD_OF_FWHM
    below, above = (at_voxels(volume, coordinates, grid, shift_mm=shift) for shift in (-slice_sd_mm, slice_sd_mm))
    sd_vox = [sequence.in_plane_mm * _SD_OF_FWHM / spacing_mm for spacing_mm in grid.spacing_mm[:2]]
    return np.asarray(ndimage.gaussian_filter((below + above) / 2, [*sd_vox, 0]))


def coil_shading(rng: np.random.Generator, grid: Grid) -> FloatArray:
    """A smooth field of about unit variance over the grid: third-order cosines with random weights."""
    cosines = [np.cos(np.pi * np.arange(4)[:, None] * (np.arange(n) + 0.5) / n) for n in grid.shape]
    order = np.indices((4, 4, 4)).sum(axis=0)
    weights = rng.standard_normal((4, 4, 4)) * np.exp(-0.7 * order) * (order > 0)
    field = np.einsum("abc,ai,bj,ck->ijk", weights, *cosines, optimize=True)
    return np.asarray(field / field.std(), dtype=np.float32)


def detect(
    rng: np.random.Generator,
    clean: FloatArray,
    *,
    grid: Grid,
    scanner: Scanner,
    site_shading: FloatArray,
    noise_sd: float,
    unit: float,
) -> NDArray[np.int16]:
    """The stored image: shaded by the coil (0.8 the site's pattern, 0.6 this scan's), with Rician noise, in int16.

    Args:
        rng: source of all choices.
        clean: signal (I, J, K).
        grid: its grid.
        scanner: whose shading and gain are applied.
        site_shading: `coil_shading` of the site.
        noise_sd: SD of the noise in each of the two channels, in units of `clean`.
        unit: the signal that is stored as 400 at gain 1.
    """
    shading = 0.8 * site_shading + 0.6 * coil_shading(rng, grid)
    noise = noise_sd * rng.standard_normal((2, *grid.shape), dtype=np.float32)
    magnitude = np.hypot(clean * np.exp(scanner.shading * shading) + noise[0], noise[1])
    gain = np.exp(rng.uniform(*np.log(scanner.gain)))
    stored = np.rint(magnitude * (gain * 400 / unit))
    return np.asarray(np.minimum(stored, np.iinfo(np.int16).max), dtype=np.int16)
