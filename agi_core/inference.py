"""Use of a trained network on files; `agi_core.synthesis` says what goes in and what comes out."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from agi_core.data.header import Doubt
from agi_core.data.nifti import FloatArray
from agi_core.data.slabs import source_box
from agi_core.network import Network
from agi_core.prediction import Predictor, predict_volume
from agi_core.synthesis import synthesize_files


def synthesize(
    network: Network,
    *,
    source_paths: Mapping[str, Path],
    out_path: Path,
    spacing_mm: tuple[float, float, float] | None,
    grid: str | None = None,
    register: bool = False,
    batch_size: int,
) -> list[tuple[str, Doubt]]:
    """`synthesize_files` with a network, on the grid of its reference where no other source is named.

    Args:
        batch_size: slices that a 2-D network sees at once: the bound on memory.
    """
    return synthesize_files(
        partial(predict, network, batch_size=batch_size),
        scenario=network.scenario,
        grid=grid or network.reference,
        source_paths=source_paths,
        out_path=out_path,
        spacing_mm=spacing_mm,
        register=register,
    )


def predict(predictor: Predictor, volumes: FloatArray, *, batch_size: int) -> FloatArray:
    """Whole axial slices through a predictor, `batch_size` at a time, or the whole volume at once.

    Args:
        volumes: sources, float32 (D, M, H, W) in [0, 1].

    Returns:
        float32 (D, H, W), clipped to [0, 1].
    """
    predictions = predict_volume(predictor, torch.from_numpy(volumes), box=source_box(volumes), batch_size=batch_size)
    result: FloatArray = predictions[:, 0].numpy()
    return result
