"""From scans to aligned arrays in [0, 1]: scale each volume, put the sources on the target's grid, find the head.

Sources follow the scanner's coordinates. The misalignment that remains, because the patient moved, is the model's task,
unless the site registers them to the reference first. The order is fixed: intensities are scaled on the volume's own
grid, before interpolation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from agi_core.data.fingerprint import image_fingerprint
from agi_core.data.header import SCANNER, TEMPLATES, Doubt, Grid
from agi_core.data.intensity import BoolArray, foreground_mask, scale_intensity, values_of
from agi_core.data.nifti import FloatArray, Volume, read_volume
from agi_core.data.plausibility import contrast_doubts, share_doubts, value_doubts
from agi_core.data.registration import register_sources
from agi_core.data.scans import Session
from agi_core.errors import DataError
from agi_core.metric_table import SSIM_WINDOW
from agi_core.scenario import Scenario

VolumeBox = tuple[slice, slice, slice]
"""Part of a (D, H, W) volume."""

_MIN_OVERLAP, _WHOLE_HEAD = 0.5, 0.99
_SAME_GRID_MM = 1e-3
_FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, eq=False)
class Prepared:
    """Aligned volumes of one session as axial slices.

    Array axes: D runs superior, H anterior, W right; that is (K, J, I) of the working grid.

    Attributes:
        to: the modality on whose grid they are, and whose head counts.
        volumes: float32 (D, M, H, W) in [0, 1], modalities in the order asked for.
        foreground: bool (D, H, W), the head (or the brain, where it is stripped).
        grid: the working grid in (I, J, K) order.
        doubts: (modality, doubt) for what is odd about the voxels.
        images: fingerprint of each modality's scan, as it was read.
    """

    to: str
    volumes: FloatArray
    foreground: BoolArray
    grid: Grid
    doubts: tuple[tuple[str, Doubt], ...]
    images: Mapping[str, str]


def prepare_session(
    session: Session,
    *,
    scenario: Scenario,
    spacing_mm: tuple[float, float, float] | None,
    subject_id: str,
    register_to: str | None = None,
) -> Prepared:
    """Read one session's scans and align them to the target: modalities in the order sources, then target.

    Args:
        register_to: the reference, a source that every other source is registered to first; None: no registration.

    Raises:
        DataError: a scan is missing or unreadable, or a source covers less than half of the target's head.
    """
    place = f"subject {subject_id}, session {session.name}" if session.name else f"subject {subject_id}"
    modalities = scenario.modalities
    if missing := [modality for modality in modalities if modality not in session.paths]:
        raise DataError(f"{place} has no {', '.join(missing)}. Add the scans or leave the subject out.")
    volumes = {modality: read_volume(session.paths[modality]) for modality in modalities}
    if register_to is not None:
        volumes |= register_sources({m: volumes[m] for m in scenario.sources}, to=register_to, place=place)
    return align(volumes, to=scenario.target, spacing_mm=spacing_mm, place=place)


def align(
    volumes: Mapping[str, Volume], *, to: str, spacing_mm: tuple[float, float, float] | None, place: str
) -> Prepared:
    """Scale every volume to [0, 1] and put it on the grid of the modality `to`.

    Args:
        volumes: by modality, on any grid; their order is that of M in the result.
        to: the modality whose grid and head count.
        spacing_mm: resample that grid to this spacing along right, anterior, superior; None keeps it.
        place: subject and session, for messages.

    Raises:
        DataError: a volume has nearly one value only, or covers less than half of the head in `to`; the grid's axial
            slices are smaller than the window of SSIM, so no prediction on it could be scored.
    """
    own_grid = volumes[to].grid
    grid = own_grid if spacing_mm is None else respaced(own_grid, spacing_mm)
    values = {modality: values_of(volume.data) for modality, volume in volumes.items()}
    head = foreground_mask(volumes[to].data, values[to])
    if not same_grid(own_grid, grid):
        head = resample(head.astype(np.float32), own_grid, grid) >= 0.5
    doubts = [(to, doubt) for doubt in share_doubts(head)]
    if not head.any():
        raise DataError(
            f"{place}: no head is left of {to} on a grid of {grid.shape} voxels. Set a finer grid.spacing_mm."
        )
    if min(grid.shape[:2]) < SSIM_WINDOW:
        coarse, thick = "Set a finer grid.spacing_mm.", "Resample a thick sagittal or coronal scan, or leave it out."
        raise DataError(
            f"{place}: an axial slice of {to} has {grid.shape[0]} x {grid.shape[1]} voxels; at least {SSIM_WINDOW} x "
            f"{SSIM_WINDOW} are needed to score it. {thick if spacing_mm is None else coarse}"
        )
    stack = np.empty((grid.shape[2], len(volumes), *grid.shape[1::-1]), dtype=np.float32)
    for index, (modality, volume) in enumerate(volumes.items()):
        scaled, _, _ = scale_intensity(volume.data, values[modality], place=f"{place}, {modality}")
        if modality != to and not same_grid(volume.grid, grid):
            overlap = float(field_of_view(volume.grid, grid)[head].mean())
            if overlap < _MIN_OVERLAP:
                raise DataError(
                    f"{place}: {modality} covers {overlap:.0%} of the head in {to}; at least {_MIN_OVERLAP:.0%} is "
                    "needed. Check that both scans belong together and that their headers are right, or leave them out."
                )
            if overlap < _WHOLE_HEAD:
                cause = "it does not cover the whole head; where it is missing the model can only guess"
                doubts.append((modality, Doubt(cause, f"{overlap:.0%}")))
        aligned = resample(scaled, volume.grid, grid)
        stack[:, index] = aligned.transpose(2, 1, 0)
        odd = (*value_doubts(volume.data, values[modality]), *contrast_doubts(aligned, head))
        doubts += [(modality, doubt) for doubt in odd]
    return Prepared(
        to,
        stack,
        np.ascontiguousarray(head.transpose(2, 1, 0)),
        grid,
        tuple(doubts),
        {modality: image_fingerprint(volume.data) for modality, volume in volumes.items()},
    )


def session_doubts(grids: Mapping[str, Grid]) -> list[tuple[str, Doubt]]:
    """(modality, doubt) for all that is odd about the headers of one session's scans, alone and beside each other."""
    doubts = [(modality, doubt) for modality, grid in grids.items() for doubt in grid.doubts]
    scanner = [modality for modality, grid in grids.items() if grid.space == SCANNER]
    for modality, grid in grids.items():
        if scanner and grid.space in TEMPLATES:
            found = f"{grid.space}; in the scanner's: {', '.join(scanner)}"
            doubts.append((modality, Doubt("a scan lies in a template's space, others of its session do not", found)))
    return doubts


def head_box(mask: BoolArray) -> VolumeBox:
    """Smallest box that holds a non-empty mask (D, H, W)."""
    extents = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    d, h, w = (slice(int(extent[0]), int(extent[-1]) + 1) for extent in extents)
    return d, h, w


def respaced(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid with another spacing and the same centre and directions; its extent is kept to half a new voxel."""
    step = np.asarray(spacing_mm) / np.asarray(grid.spacing_mm)
    shape = np.maximum(1, np.rint(np.asarray(grid.shape) / step)).astype(int)
    to_old = np.diag([*step, 1.0])
    to_old[:3, 3] = ((np.asarray(grid.shape) - 1) - step * (shape - 1)) / 2
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), grid.affine @ to_old)


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids have one shape and all their corners within a micrometre."""
    if a.shape != b.shape:
        return False
    corners = np.array([[i, j, k, 1] for i in (0, a.shape[0]) for j in (0, a.shape[1]) for k in (0, a.shape[2])])
    return bool(np.abs(corners @ (a.affine - b.affine).T).max() < _SAME_GRID_MM)


def resample(data: FloatArray, source: Grid, onto: Grid) -> FloatArray:
    """Trilinear interpolation of `data` (I, J, K) from one grid onto another; 0 outside the source's field of view.

    Where the new voxels are larger, the source is first smoothed to their profile: a Gaussian whose variance is the
    difference of the two voxels' (FWHM = spacing), so that a 5 mm slice averages 1 mm slices (Cardoso et al., MICCAI
    2015). On the same grid the data is returned untouched.
    """
    if same_grid(source, onto):
        return data
    to_source = np.linalg.inv(source.affine) @ onto.affine
    extent_vox = np.linalg.norm(to_source[:3, :3], axis=1)  # of an output voxel, along each source axis
    sigma_vox = np.sqrt(np.maximum(extent_vox**2 - 1, 0)) / _FWHM_PER_SIGMA
    if sigma_vox.max() > 0.05:  # narrower kernels change nothing
        data = ndimage.gaussian_filter(data, sigma_vox, mode="nearest")
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    if np.abs(matrix - np.diag(np.diag(matrix))).max() * max(onto.shape) < 1e-4:
        matrix = np.diag(matrix)  # scipy's separable path, several times faster
    result: FloatArray = ndimage.affine_transform(data, matrix, offset, onto.shape, order=1, mode="nearest")
    result[~field_of_view(source, onto)] = 0
    return result


def field_of_view(source: Grid, onto: Grid) -> BoolArray:
    """Which voxels of `onto` (I, J, K) have their centre inside a voxel of `source`."""
    to_source = np.linalg.inv(source.affine) @ onto.affine
    i, j, k = np.ogrid[: onto.shape[0], : onto.shape[1], : onto.shape[2]]
    inside = np.ones(onto.shape, dtype=bool)
    for (a, b, c, d), size in zip(to_source[:3], source.shape, strict=True):
        index = a * i + b * j + c * k + d
        inside &= (index > -0.5 - 1e-4) & (index < size - 0.5 + 1e-4)
    return inside
