"""Use of a trained model: NIfTI files in, one NIfTI file out.

Sources may have any orientation and grid, and no target or mask is needed. Each is scaled to [0, 1] by its own
percentiles, as in training, and put on the grid of the reference, the source acquired in the target's pose. The result
is on that grid, in the reference's stored orientation. Its values are on the target's scale in training: 0 stands for
the 0.5th, 1 for the 99.5th percentile of a real scan of that modality (`agi_core.data.preprocess.scale_intensity`), not
for physical units.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from agi_core.data.nifti import FloatArray, check_name, read_volume, write_volume
from agi_core.data.preprocess import align, resample
from agi_core.data.registration import register_sources
from agi_core.errors import DataError, RunError
from agi_core.prediction import SlidingWindow, predict_whole, predictor, slabs, source_box
from agi_core.scenario import Scenario


def synthesize(
    model: nn.Module,
    *,
    scenario: Scenario,
    source_paths: Mapping[str, Path],
    reference: str,
    out_path: Path,
    spacing_mm: tuple[float, float, float] | None,
    multiple: int,
    neighbours: int = 0,
    batch_size: int,
    device: torch.device,
    crop: tuple[int, ...] = (),
    register: bool = False,
) -> None:
    """Synthesise the scenario's target from its sources and write it on the reference's grid.

    Args:
        model: (B, M, H, W) -> (B, 1, H, W), or of volumes; it is moved to `device` and put in evaluation mode.
        scenario: of the run; the model sees the sources in its order.
        source_paths: one NIfTI file per source modality.
        reference: the source whose grid, orientation and header geometry the output has.
        out_path: ends in `.nii` or `.nii.gz`; replaced when it exists.
        spacing_mm: the run's `grid.spacing_mm` (right, anterior, superior); the output goes back from it.
        multiple: what H and W are padded to, and cropped back from.
        neighbours: slices on either side that the model sees; `ModelConfig.neighbours`.
        batch_size: slices that the model sees at once: the bound on memory.
        crop: the training crop; with three sizes the model is 3-D and sees windows of that size, one at a time.
        register: lay the other sources on the reference first, as the run's `data.register` did in training.

    Raises:
        DataError: a source is missing, unknown, unreadable or covers less than half of the reference's head, or
            `out_path` is one of the sources.
        RunError: `out_path` cannot be written, or the model's output is not finite.
    """
    if set(source_paths) != set(scenario.sources) or reference not in source_paths:
        raise DataError(
            f"The model makes {scenario.target} from {', '.join(scenario.sources)}, but was given "
            f"{', '.join(source_paths) or 'nothing'} with {reference} as reference. Give one file for each."
        )
    check_name(out_path)
    if out_path.resolve() in {path.resolve() for path in source_paths.values()}:
        raise DataError(f"{out_path} is one of the sources. Choose another output file.")
    volumes = {modality: read_volume(source_paths[modality]) for modality in scenario.sources}
    if register:
        volumes = register_sources(volumes, to=reference, place=str(out_path))
    prepared = align(volumes, to=reference, spacing_mm=spacing_mm, place=str(source_paths[reference]))
    slices = predict(  # (D, H, W)
        model,
        prepared.volumes,
        multiple=multiple,
        batch_size=batch_size,
        device=device,
        crop=crop,
        neighbours=neighbours,
    )
    on_reference = resample(np.ascontiguousarray(slices.transpose(2, 1, 0)), prepared.grid, volumes[reference].grid)
    write_volume(
        out_path,
        on_reference.clip(0, 1),
        like=source_paths[reference],
        descrip=f"synthetic {scenario.target}; 0..1 = p0.5..p99.5 of a real one",
    )


def predict(
    model: nn.Module,
    volumes: FloatArray,
    *,
    multiple: int,
    batch_size: int,
    device: torch.device,
    crop: tuple[int, ...] = (),
    neighbours: int = 0,
) -> FloatArray:
    """Run the model, in evaluation mode, over whole axial slices, `batch_size` at a time, or over the whole volume.

    Args:
        volumes: float32 (D, M, H, W) in [0, 1].

    Returns:
        float32 (D, H, W), clipped to [0, 1].

    Raises:
        RunError: the output is not finite.
    """
    network, box = predictor(model.to(device), multiple=multiple, crop=crop), source_box(volumes)
    at_once = len(volumes) if isinstance(network, SlidingWindow) else batch_size
    batches = torch.split(slabs(torch.from_numpy(volumes), neighbours=neighbours), at_once)
    result = torch.cat([predict_whole(network, batch, box=box)[:, 0] for batch in batches]).numpy()
    if not np.isfinite(result).all():
        raise RunError("The model's output is not finite: its training diverged. Use another checkpoint or run.")
    return result
