"""Build the tissue maps of the built-in data from four public T1-weighted brains (`agi_core/data/anatomy/NOTICE`).

Nothing needs it at run time, so it is not part of what a hospital installs:

    python -m benchmarks.build_anatomies heads /usr/share/mricron/templates NILEARN/datasets/data
    python -m benchmarks.build_anatomies brains OPEN_MS_DATA/cross_sectional/MNI

* Colin27, one man with skull and scalp: `ch2.nii.gz` and its brain `ch2bet.nii.gz`, from Debian's `mricron-data`.
* ICBM 2009a symmetric, the average of 152 people, brain only: from the wheel of nilearn 0.14 (`pip download --no-deps
  nilearn`, unpacked). It is sharpened and gets the skull and scalp of Colin27.

* Patients 07 and 19 of open_ms_data, brain only: `patient07/T1W.nii.gz`, `patient19/T1W.nii.gz`. They are stored at
  1.5 mm, and stretched along each axis to the extent of Colin27's brain, in whose skull
  `agi_core.data.phantom.anatomy` sets them. Their lesions, dark in T1, become grey matter.

Each anatomy becomes `<name>.npz`: `codes`, uint8 (I, J, K), RAS, the tissue mixture of each voxel on the scale of
`agi_core.data.phantom.tissue`; `brain` and `ventricles`, packed bits of the same shape; `origin_mm`, the position of
voxel (0, 0, 0). A head has voxels of 1 mm; the file of a brain says `voxel_mm` per axis.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agi_core.data.nifti import read_volume
from agi_core.data.phantom.anatomy import ANATOMY_DIR, load_anatomy
from agi_core.data.phantom.tissue import AIR, CSF, FAT, GREY, SOFT, WHITE

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

# T1-weighted intensities of the tissues: modes of the histograms.
COLIN_CSF, COLIN_GREY, COLIN_WHITE = 36.0, 84.0, 112.0
COLIN_BONE, COLIN_SOFT, COLIN_FAT = 22.0, 58.0, 125.0
ICBM_CSF, ICBM_GREY, ICBM_WHITE = 70.0, 165.0, 222.0
PATIENTS = {"07": (300.0, 2250.0, 3050.0), "19": (220.0, 1300.0, 1820.0)}  # CSF, grey, white
EYES_MM = ((-33.0, 58.0, -36.0), (32.0, 58.0, -36.0))  # the globes of Colin27
EYE_RADIUS_MM = 13.0
ICBM_SHARPENING = 1.2
BRAIN_STEP = 1.5  # voxels of a patient's scan in one of the file
RIM_MM = 1.5  # of subarachnoid space around the closed brain


def build_heads(colin_dir: Path, icbm_dir: Path, *, out_dir: Path) -> None:
    """Write `colin27.npz` and `icbm2009a.npz` to `out_dir`."""
    colin = read_volume(colin_dir / "ch2.nii.gz")
    head, origin_mm = colin.data, colin.affine[:3, 3]
    icbm = read_volume(icbm_dir / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    start = np.round(origin_mm - icbm.affine[:3, 3]).astype(int)
    t1 = icbm.data[tuple(slice(s, s + n) for s, n in zip(start, head.shape, strict=True))]

    colin_brain = _clean(read_volume(colin_dir / "ch2bet.nii.gz").data > 0)
    outside = _outside(head, origin_mm)
    colin_cavity = _cavity(colin_brain, head)
    colin_inside = _path(head, (COLIN_CSF, COLIN_GREY - 4, COLIN_GREY, COLIN_WHITE), (CSF, GREY, GREY, WHITE))
    _write(out_dir / "colin27.npz", np.where(colin_cavity, colin_inside, outside), colin_brain, origin_mm)

    # Between the second brain and Colin's skull lies CSF; where it is larger than Colin's, the skull is thinner.
    icbm_brain = _clean(t1 > 0)
    sharp = t1 + ICBM_SHARPENING * (t1 - ndimage.gaussian_filter(t1, 1.5))
    icbm_inside = _path(sharp, (ICBM_CSF, ICBM_GREY - 8, ICBM_GREY, ICBM_WHITE), (CSF, GREY, GREY, WHITE))
    icbm_inside[~icbm_brain] = CSF
    icbm_cavity = colin_cavity | ndimage.binary_dilation(icbm_brain)
    _write(out_dir / "icbm2009a.npz", np.where(icbm_cavity, icbm_inside, outside), icbm_brain, origin_mm)


def build_brains(ms_dir: Path, *, out_dir: Path) -> None:
    """Write `ms07.npz` and `ms19.npz` to `out_dir`, next to `colin27.npz`."""
    colin = load_anatomy("colin27")
    colin_mm = colin.origin_mm[:, None] + _extent(colin.brain > 0)
    for patient, (csf, grey, white) in PATIENTS.items():
        scan = read_volume(ms_dir / f"patient{patient}" / "T1W.nii.gz")
        brain = _clean(scan.data > 0)
        codes = _path(np.where(brain, scan.data, csf), (csf, 0.96 * grey, grey, white), (CSF, GREY, GREY, WHITE))
        filled = _closed(brain, 4)
        extent = _extent(filled)
        voxel_mm = np.diff(colin_mm)[:, 0] / np.diff(extent)[:, 0]
        _save(
            out_dir / f"ms{patient}.npz",
            np.rint(_coarse(codes)).astype(np.uint8),
            brain=_coarse(filled) > 0.5,
            ventricles=_coarse(_ventricles(codes, filled, scan.affine[:3, 3])) > 0.5,
            origin_mm=colin_mm[:, 0] - voxel_mm * extent[:, 0],
            voxel_mm=BRAIN_STEP * voxel_mm,
        )


def _extent(brain: Mask) -> NDArray[np.float64]:
    """Where the brain begins and ends along each axis, without the outermost 2 % of its voxels: (3, 2)."""
    return np.percentile(np.nonzero(brain), (2, 98), axis=1).T


def _coarse(values: NDArray[np.generic]) -> FloatArray:
    """Every `BRAIN_STEP`-th place along each axis of the smoothed values."""
    smooth = ndimage.gaussian_filter(values.astype(np.float32), BRAIN_STEP / 3)
    shape = tuple(int(n // BRAIN_STEP) for n in values.shape)
    return np.asarray(ndimage.affine_transform(smooth, np.full(3, BRAIN_STEP), output_shape=shape, order=1))


def _write(path: Path, codes: NDArray[np.uint8], brain: Mask, origin_mm: NDArray[np.float64]) -> None:
    filled = _closed(brain, 4)
    ventricles = _ventricles(codes, filled, origin_mm)
    _save(path, codes, brain=filled, ventricles=ventricles, origin_mm=origin_mm)


def _save(path: Path, codes: NDArray[np.uint8], *, brain: Mask, ventricles: Mask, **grid: NDArray[np.float64]) -> None:
    masks = {"brain": np.packbits(brain), "ventricles": np.packbits(ventricles)}
    np.savez_compressed(path, allow_pickle=False, codes=codes, **masks, **grid)
    print(f"{path}: {codes.shape}, {path.stat().st_size / 1e6:.2f} MB")


def _path(intensity: FloatArray, levels: tuple[float, ...], codes: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.rint(np.interp(intensity, levels, codes)).astype(np.uint8)


def _clean(brain: Mask) -> Mask:
    """Without the streaks that skull stripping left: opened, largest component, holes filled."""
    opened = ndimage.binary_opening(brain, ndimage.generate_binary_structure(3, 2))
    return np.asarray(ndimage.binary_fill_holes(_largest(opened)))


def _largest(mask: Mask) -> Mask:
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == np.bincount(labels.ravel())[1:].argmax() + 1)


def _closed(mask: Mask, radius_mm: float, rim_mm: float = 0.0) -> Mask:
    """Closed with a ball, then grown by a rim."""
    pad = int(radius_mm) + 2
    dilated = ndimage.distance_transform_edt(~np.pad(mask, pad)) <= radius_mm
    closed = ndimage.distance_transform_edt(dilated) > radius_mm - rim_mm
    return np.asarray(closed[pad:-pad, pad:-pad, pad:-pad])


def _cavity(brain: Mask, head: FloatArray) -> Mask:
    """The inside of the skull: the brain with its sulci closed, a rim, and the cisterns, but no bone, air or fat."""
    smooth = ndimage.gaussian_filter(head, 1)
    cisterns = _closed(brain, 12, RIM_MM) & ndimage.binary_opening((smooth > 28) & (smooth < 62))
    return np.asarray((_closed(brain, 3, RIM_MM) & (smooth > 25)) | cisterns)


def _outside(head: FloatArray, origin_mm: NDArray[np.float64]) -> NDArray[np.uint8]:
    codes = _path(head, (COLIN_BONE, COLIN_SOFT, COLIN_SOFT + 15, COLIN_FAT), (AIR, SOFT, SOFT, FAT))
    position_mm = np.indices(head.shape, dtype=np.float32) + origin_mm[:, None, None, None]
    for centre_mm in EYES_MM:
        near = ((position_mm - np.array(centre_mm)[:, None, None, None]) ** 2).sum(axis=0) < EYE_RADIUS_MM**2
        codes[near & (head < 55)] = CSF
    return codes


def _ventricles(codes: NDArray[np.uint8], brain: Mask, origin_mm: NDArray[np.float64]) -> Mask:
    """The largest pool of CSF in the middle of the brain: lateral and third ventricles, roughly."""
    x, y, z = np.indices(codes.shape, dtype=np.float32) + origin_mm[:, None, None, None]
    middle = (abs(x) < 40) & (y > -46) & (y < 40) & (z > -4) & (z < 32)
    deep = ndimage.distance_transform_edt(brain) > 12
    return _largest((codes >= CSF) & (codes < (CSF + GREY) / 2) & middle & deep)


if __name__ == "__main__":
    BUILD: dict[str, Callable[..., None]] = {"heads": build_heads, "brains": build_brains}
    BUILD[sys.argv[1]](*map(Path, sys.argv[2:]), out_dir=ANATOMY_DIR)
