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
from agi_core.synthesis import Judge, Second, synthesize_files
from agi_core.uncertainty import ErrorModel, WithError


def synthesize(
    network: Network,
    *,
    source_paths: Mapping[str, Path],
    out_path: Path,
    spacing_mm: tuple[float, float, float] | None,
    grid: str | None = None,
    register: bool = False,
    batch_size: int,
    judge: Judge | None = None,
    error_map: tuple[ErrorModel, Path] | None = None,
) -> list[tuple[str, Doubt]]:
    """`synthesize_files` with a network, on the grid of its reference where no other source is named.

    Args:
        batch_size: slices that a 2-D network sees at once: the bound on memory.
        error_map: what expects the network's error, and where the expected absolute error is written.
    """
    predictor: Predictor = network
    second = None
    if error_map is not None:
        model, path = error_map
        predictor = WithError(network, model.layer)
        second = Second(path, f"expected |error| e; 90% interval: +- {model.factor:.2f} e")
    return synthesize_files(
        partial(predict, predictor, batch_size=batch_size),
        scenario=network.scenario,
        grid=grid or network.reference,
        source_paths=source_paths,
        out_path=out_path,
        spacing_mm=spacing_mm,
        register=register,
        judge=judge,
        second=second,
    )


def predict(predictor: Predictor, volumes: FloatArray, *, batch_size: int) -> FloatArray:
    """Whole axial slices through a predictor, `batch_size` at a time, or the whole volume at once.

    Args:
        volumes: sources, float32 (D, M, H, W) in [0, 1].

    Returns:
        float32 (D, H, W), clipped to [0, 1]; of a predictor with C channels (C, D, H, W).
    """
    predictions = predict_volume(predictor, torch.from_numpy(volumes), box=source_box(volumes), batch_size=batch_size)
    result: FloatArray = predictions.transpose(0, 1).numpy()
    return result if len(result) > 1 else result[0]
