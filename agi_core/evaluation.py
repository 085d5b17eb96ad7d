"""Scores of a predictor on cached sessions: no files but the cache's, no globals, no Flower."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import WholeSlices, evaluation_slices, whole_images
from agi_core.metrics import SubjectScore
from agi_core.network import CPU, Network
from agi_core.prediction import Predictor, predict_whole

OnSession = Callable[[int, int], None]  # (sessions done, all sessions)
OnVolume = Callable[[CachedSession, Tensor, Tensor, Tensor], None]  # prediction, target and foreground, (D, H, W)
ChosenSlices = tuple[CachedSession, Sequence[int] | None]
Compared = tuple[Tensor, Tensor, Tensor]
"""What is made of slices (B, C, h, w), the target beside it (B, 1, h, w), and which voxels count: bool (B, 1, h, w)."""
EVALUATION_BATCH = 8


def evaluate(
    predictor: Predictor,
    slices: Sequence[ChosenSlices],
    *,
    on_session: OnSession | None = None,
    on_volume: OnVolume | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of each subject over the chosen whole slices of all its sessions; see `agi_core.metrics`.

    Args:
        slices: (session, slice numbers) pairs; None = every slice of the session.
        on_session: called with (done, total) after each session.
        on_volume: called with the chosen slices of each session.

    Returns:
        {subject id: {metric: value}}
    """
    scores: dict[str, SubjectScore] = {}
    device = predictor.device if isinstance(predictor, Network) else CPU  # SSIM on the CPU would keep a GPU waiting
    for done, (session, indices) in enumerate(slices, start=1):
        score, volumes = scores.setdefault(session.subject_id, SubjectScore()), []
        for prediction, batch in predict_session(predictor, session, indices=indices):
            score.add(prediction.to(device), batch.target.to(device), batch.foreground.to(device))
            if on_volume is not None:
                volumes.append((prediction, batch.target, batch.foreground))
        if on_volume is not None and volumes:
            prediction, target, foreground = (torch.cat(part)[:, 0] for part in zip(*volumes, strict=True))
            on_volume(session, prediction, target, foreground)
        if on_session is not None:
            on_session(done, len(slices))
    return {subject_id: score.result() for subject_id, score in scores.items()}


def squared_error(network: Network, slices: Sequence[tuple[CachedSession, Sequence[int]]]) -> dict[str, float]:
    """The mean squared error of each subject over the chosen whole slices: where training has brought the target onto
    the reference, there."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for session, indices in slices:
        for prediction, target, imaged in _where_training_compares(network, session, indices):
            sums[session.subject_id][0] += float((prediction - target)[imaged].double().square().sum())
            sums[session.subject_id][1] += int(imaged.sum())
    return {subject_id: total / voxels for subject_id, (total, voxels) in sums.items() if voxels}


def _where_training_compares(network: Network, session: CachedSession, indices: Sequence[int]) -> Iterator[Compared]:
    """Predictions of the chosen slices, their target where training takes the loss, and which voxels count there."""

    def compare(batch: WholeSlices) -> Compared:
        made = predict_whole(network, batch.sources, box=session.source_box)
        return made, *network.compared_target(batch.sources, batch.target)

    return compared_slices(compare, network, session, indices, batch_size=EVALUATION_BATCH)


def compared_slices(
    compare: Callable[[WholeSlices], Compared],
    predictor: Predictor,
    session: CachedSession,
    indices: Sequence[int],
    *,
    batch_size: int,
) -> Iterator[Compared]:
    """What `compare` makes of the chosen slices, `batch_size` at a time. For a volumetric predictor it sees the whole
    volume, as in use, whichever slices are asked for."""
    if not predictor.volumetric:
        batches = evaluation_slices(session, batch_size=batch_size, indices=indices, neighbours=predictor.neighbours)
        yield from map(compare, batches)
        return
    volume = compare(next(evaluation_slices(session, batch_size=session.shape[0])))
    for start in range(0, len(indices), batch_size):
        made, target, counted = (part[list(indices[start : start + batch_size])] for part in volume)
        yield made, target, counted


def disagreement(
    first: Predictor, second: Predictor, slices: Sequence[tuple[CachedSession, Sequence[int]]]
) -> dict[str, float]:
    """The mean squared difference of two predictors' images of the chosen whole slices of each subject. They see all
    modalities of the sessions, as many neighbours, and both or none are volumetric. A second channel of 1, as of
    `WithGaps`, leaves a voxel out: a blend would take the other's image there."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for session, indices in slices:
        size = max(1, len(indices)) if first.volumetric else EVALUATION_BATCH  # a volume is predicted once
        for start in range(0, len(indices), size):
            numbers = indices[start : start + size]
            ours, theirs = (_predict_some(predictor, session, numbers) for predictor in (first, second))
            both = (1 - ours[:, 1:].sum(dim=1)) * (1 - theirs[:, 1:].sum(dim=1))
            sums[session.subject_id][0] += float((both * (ours - theirs)[:, 0].square()).double().sum())
            sums[session.subject_id][1] += float(both.double().sum())
    return {subject_id: total / voxels for subject_id, (total, voxels) in sums.items() if voxels}


def _predict_some(predictor: Predictor, session: CachedSession, numbers: Sequence[int]) -> Tensor:
    """Predictions (B, 1, H, W) of some slices from all modalities."""
    shown = range(session.shape[0]) if predictor.volumetric else numbers
    images = whole_images(session, shown, neighbours=predictor.neighbours)
    predictions = predict_whole(predictor, images, box=session.source_box)
    return predictions[list(numbers)] if predictor.volumetric else predictions


def predict_session(
    predictor: Predictor, session: CachedSession, *, indices: Sequence[int] | None = None
) -> Iterator[tuple[Tensor, WholeSlices]]:
    """Predictions (B, 1, H, W) in [0, 1] beside the truth of a session's slices (all, or those of `indices`), a few at
    a time. A volumetric predictor sees the whole volume, whichever slices are asked for."""
    volume = None
    if predictor.volumetric:
        (everything,) = evaluation_slices(session, batch_size=session.shape[0])
        volume = predict_whole(predictor, everything.sources, box=session.source_box)
        del everything  # as large as all modalities of the volume
    for batch in evaluation_slices(
        session, batch_size=EVALUATION_BATCH, indices=indices, neighbours=predictor.neighbours
    ):
        if volume is None:
            yield predict_whole(predictor, batch.sources, box=session.source_box), batch
        else:
            yield volume[list(batch.indices)], batch
