"""Use of a trained model on files; `agi_core.synthesis` says what goes in and what comes out."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from agi_core.data.header import Doubt
from agi_core.data.nifti import FloatArray
from agi_core.data.slabs import source_box
from agi_core.prediction import Predictor, predict_volume
from agi_core.scenario import Scenario
from agi_core.synthesis import ERROR_VALUES, Judge, Second, synthesize_files
from agi_core.uncertainty import Interval


class Model(Predictor, Protocol):
    """What makes a target of files: a `Network`, or a blend of several."""

    @property
    def scenario(self) -> Scenario:
        """What it makes of what; it sees the sources in this order."""

    @property
    def reference(self) -> str:
        """The source in the target's pose, whose grid the output has where no other is named."""


class ErrorMap(NamedTuple):
    """Where the expected absolute error is written, the interval that it makes, and the model that predicts both."""

    predictor: Predictor
    interval: Interval
    path: Path


def synthesize(
    model: Model,
    *,
    source_paths: Mapping[str, Path],
    out_path: Path,
    spacing_mm: tuple[float, float, float] | None,
    grid: str | None = None,
    register: bool = False,
    note: str = "",
    batch_size: int,
    judge: Judge | None = None,
    error_map: ErrorMap | None = None,
) -> list[tuple[str, Doubt]]:
    """`synthesize_files` with a model, on the grid of its reference where no other source is named.

    Args:
        batch_size: slices that a 2-D network sees at once: the bound on memory.
        error_map: the same model with its expected error as a second channel.
    """
    predictor: Predictor = model
    second = None
    if error_map is not None:
        predictor, interval, path = error_map
        second = Second(path, f"{ERROR_VALUES}; 90% interval: +- {interval.factor:.2f} e")
    return synthesize_files(
        partial(predict, predictor, batch_size=batch_size),
        scenario=model.scenario,
        grid=grid or model.reference,
        source_paths=source_paths,
        out_path=out_path,
        spacing_mm=spacing_mm,
        register=register,
        judge=judge,
        second=second,
        note=note,
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
