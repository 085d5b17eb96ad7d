"""Rigid registration of one scan to another by mutual information, with SimpleITK (the extra `register`).

Nothing is resampled: the moving scan gets a new affine, and `agi_core.data.preprocess.resample` then interpolates it
once, as it would have without registration.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agi_core.data.header import Affine
from agi_core.data.intensity import values_of
from agi_core.data.nifti import Volume
from agi_core.errors import ConfigError, DataError

HISTOGRAM_BINS = 32
SAMPLED_PART = 0.04  # of the voxels, drawn with a fixed seed; 0.2 takes longer and is not more accurate
SHRINK_FACTORS, SMOOTHING_MM = [4, 2, 1], [4.0, 2.0, 0.0]
STEP, MIN_STEP, MAX_STEPS = 1.0, 1e-3, 100
SEED = 1


def check_installed() -> None:
    """Raise ConfigError where SimpleITK is not installed."""
    _simple_itk()


def register(moving: Volume, fixed: Volume, *, place: str) -> Volume:
    """The moving scan with the affine that lays it on the fixed one.

    Six parameters maximise Mattes' mutual information (Mattes et al., IEEE TMI 22:120, 2003) over three resolutions,
    starting from the scans' own affines. With one thread and a fixed sample of voxels the result can be repeated.

    Args:
        place: subject and modality, for messages.

    Raises:
        ConfigError: SimpleITK is not installed.
        DataError: the scans do not overlap.
    """
    sitk = _simple_itk()
    try:
        still, movable = _image(sitk, fixed), _image(sitk, moving)
        centre = fixed.affine[:3] @ [*(np.array(fixed.data.shape) - 1) / 2, 1.0]
        start = sitk.Euler3DTransform(centre.tolist())
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(SAMPLED_PART, SEED)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(STEP, MIN_STEP, MAX_STEPS)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel(SHRINK_FACTORS)
        method.SetSmoothingSigmasPerLevel(SMOOTHING_MM)
        method.SetInitialTransform(start, inPlace=True)
        method.Execute(still, movable)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(
            f"{place} cannot be registered ({reason}). Check its header, or leave the subject out."
        ) from None
    return Volume(moving.data, np.linalg.inv(_matrix(start)) @ moving.affine)


def register_sources(sources: Mapping[str, Volume], *, to: str, place: str) -> dict[str, Volume]:
    """Every source laid on the reference `to`, which stays as it is. Raises as `register` does."""
    return {
        modality: volume if modality == to else register(volume, sources[to], place=f"{place}, {modality}")
        for modality, volume in sources.items()
    }


def _simple_itk() -> Any:
    try:
        import SimpleITK
    except ImportError:
        raise ConfigError(
            "register: rigid needs SimpleITK, which is not installed; install the extra with"
            " `.venv/bin/pip install -c constraints.txt '.[register]'`, or set register: none"
        ) from None
    return SimpleITK


def _image(sitk: Any, volume: Volume) -> Any:
    """The volume as ITK's image, in its own RAS+ mm. ITK's anatomical convention does not matter here."""
    spacing_mm = np.array(volume.grid.spacing_mm)
    values = values_of(volume.data)  # of what is not zero, where zero is the background
    believed = volume.data.clip(min(values.least, 0), max(values.greatest, 0))
    image = sitk.GetImageFromArray(np.ascontiguousarray(believed.transpose(2, 1, 0)))
    image.SetSpacing(spacing_mm.tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection((volume.affine[:3, :3] / spacing_mm).ravel().tolist())
    return image


def _matrix(transform: Any) -> Affine:
    """The transform's matrix: a point of the fixed scan -> the same anatomy in the moving scan, in mm."""
    origin, *ends = (
        np.array(transform.TransformPoint(point)) for point in np.vstack([np.zeros(3), np.eye(3)]).tolist()
    )
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([*(end - origin for end in ends), origin])
    return matrix
