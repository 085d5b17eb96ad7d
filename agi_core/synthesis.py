"""Files in, one file out, around whatever predicts: a network, or an exported graph. It needs no torch.

Sources may have any orientation and grid, and no target or mask is needed. Each is scaled to [0, 1] by its own
percentiles, as in training, and put on the grid of the reference, the source acquired in the target's pose. The result
is on that grid, in the reference's stored orientation. Its values are on the target's scale in training: 0 stands for
the 0.5th, 1 for the 99.5th percentile of a real scan of that modality (`agi_core.data.intensity.scale_intensity`), not
for physical units.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agi_core.data.header import Doubt
from agi_core.data.nifti import FloatArray, Volume, check_name, read_descrip, read_volume, write_volumes
from agi_core.data.preprocess import Prepared, align, resample, session_doubts
from agi_core.data.registration import register_sources
from agi_core.errors import DataError, RunError
from agi_core.scenario import Scenario, modality_parts

OUT_OF_RANGE = "OUT OF KNOWN RANGE"  # in the header of what is made of sources unlike those of training
_VALUES = "0..1 = p0.5..p99.5 of a real one"
ERROR_VALUES = "expected |error| e"
_OURS = re.compile(rf"({OUT_OF_RANGE}: )?(synthetic .+; {re.escape(_VALUES[:4])}|{re.escape(ERROR_VALUES)})")

Judge = Callable[[Mapping[str, Volume], Prepared], Iterable[str]]
"""Sources as they were read, and prepared -> why they are unlike those of training; nothing if they are not."""


class Second(NamedTuple):
    """Another volume that is made of the same sources: where it goes, and what its values are (at most 50 letters)."""

    path: Path
    descrip: str


def synthesize_files(
    predict: Callable[[FloatArray], FloatArray],
    *,
    scenario: Scenario,
    grid: str,
    source_paths: Mapping[str, Path],
    out_path: Path,
    spacing_mm: tuple[float, float, float] | None,
    register: bool = False,
    judge: Judge | None = None,
    second: Second | None = None,
    note: str = "",
) -> list[tuple[str, Doubt]]:
    """Synthesise the scenario's target from its sources and write it on the grid of one of them.

    Args:
        predict: sources (D, M, H, W) in [0, 1] -> (D, H, W); with a `second` (2, D, H, W), both from 0 to 1.
        grid: the source whose grid, orientation and header geometry the output has.
        source_paths: one NIfTI file per source modality.
        out_path: ends in `.nii` or `.nii.gz`; a file that is there is replaced if it was made here, as its header says.
        spacing_mm: the run's `grid.spacing_mm` (right, anterior, superior); the output goes back from it.
        register: lay the other sources on that one first, as the run's `data.register` did in training.
        judge: its sentences are noted in the header of what is written.
        note: said in the header's description too, as far as there is room.

    Returns:
        (modality, doubt) for what is odd about the sources' headers and voxels.

    Raises:
        DataError: a source is missing, unknown, unreadable or covers less than half of the head in the grid's source,
            two sources are the same image, or an output is one of the sources, the other output or a file that was
            not made here.
        RunError: an output cannot be written, or the prediction is not finite; then none is written.
    """
    if set(source_paths) != set(scenario.sources) or grid not in source_paths:
        raise DataError(
            f"The model makes {scenario.target} from {', '.join(scenario.sources)}, but was given "
            f"{', '.join(source_paths) or 'nothing'} with {grid} as reference. Give one file for each."
        )
    about = [f"synthetic {modality_parts(scenario.target)[0]}", _VALUES, *([note] if note else [])]
    outputs = [Second(out_path, "; ".join(about))]
    outputs += [second] if second else []
    taken = {path.resolve(): "one of the sources" for path in source_paths.values()}
    for path, _ in outputs:
        check_name(path)
        if path.resolve() in taken:
            raise DataError(f"{path} is {taken[path.resolve()]}. Choose another output file.")
        if path.exists() and not made_here(path):
            raise DataError(f"{path} is there already, and is no synthetic volume. Choose another output file.")
        taken[path.resolve()] = "named for two outputs"
    volumes = {modality: read_volume(source_paths[modality]) for modality in scenario.sources}
    doubts = session_doubts({modality: volume.grid for modality, volume in volumes.items()})
    for one, other in combinations(scenario.sources, 2):
        if np.array_equal(volumes[one].data, volumes[other].data):
            raise DataError(
                f"{source_paths[one]} for {one} and {source_paths[other]} for {other} are the same image. "
                "Give each modality its own file."
            )
    if register:
        volumes = register_sources(volumes, to=grid, place=str(out_path))
    prepared = align(volumes, to=grid, spacing_mm=spacing_mm, place=str(source_paths[grid]))
    reasons = () if judge is None else tuple(judge(volumes, prepared))
    made = predict(prepared.volumes)
    if not np.isfinite(made).all():
        raise RunError("The model's output is not finite: its training diverged. Use another checkpoint or run.")
    written = {}
    for (path, descrip), slices in zip(outputs, made if second else [made], strict=True):
        on_grid = resample(np.ascontiguousarray(slices.transpose(2, 1, 0)), prepared.grid, volumes[grid].grid)
        written[path] = on_grid.clip(0, 1), f"{OUT_OF_RANGE}: {descrip}" if reasons else descrip
    comment = "\n".join(f"out of known range: {reason}" for reason in reasons)
    write_volumes(written, like=source_paths[grid], comment=comment)
    return [*doubts, *prepared.doubts]


def made_here(path: Path) -> bool:
    """Whether a file says in its header what is said of an output."""
    try:
        return _OURS.match(read_descrip(path)) is not None
    except DataError:
        return False
