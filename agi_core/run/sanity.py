"""What in a run's result should be looked at before any of its figures is used: sentences for a person.

They follow from the figures alone, so a coordinator who sees no scan has them too. A simulation adds which of its
example slices are constant or saturated.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from agi_core.metric_table import FAULTY
from agi_core.run.scores import Scores

BLACK_NMSE = 0.9  # a black prediction has 1 exactly
FAR_BELOW_DB = 5.0
MOVED_DB = 0.01
_REGRESSIONS = {"voxel_regression": "voxel regression", "regression_pooled": "regression on aligned sources"}


def sanity_flags(
    scores: Scores,
    *,
    baselines: Mapping[str, Scores],
    validation_db: Sequence[float],
    personal: Scores | None = None,
) -> list[str]:
    """What is suspicious, if anything.

    Args:
        scores: of the final test.
        personal: of the model that each site has made its own, where there is one.
        baselines: those that were scored, by name.
        validation_db: mean PSNR of each validation, the untrained model's first, in dB; empty where sites do not tell.
    """
    below = [*_below(scores, baselines)]
    if scores.unseen_sites:
        unseen = {name: its.unseen for name, its in baselines.items()}
        below += [f"at unseen sites {flag}" for flag in _below(scores.unseen, unseen)]
    own = personal or Scores({})
    return [
        *_as_bad_as_black(scores),
        *_faulty(scores),
        *below,
        *_not_moving(validation_db),
        *_far_below(scores, own),
        *_own_below(scores, own),
    ]


def _as_bad_as_black(scores: Scores) -> Iterator[str]:
    for site, score in {**scores.sites, **scores.unseen_sites}.items():
        if (nmse := score.metrics.get("nmse", 0.0)) >= BLACK_NMSE:
            yield f"{site}: the predictions are as wrong as black ones (NMSE {nmse:.2f}, a black volume has 1)"


def _faulty(scores: Scores) -> Iterator[str]:
    for site, score in {**scores.sites, **scores.unseen_sites}.items():
        if share := score.metrics.get(FAULTY, 0.0):
            yield f"{site}: {share:.0%} of the synthetic test volumes are constant or saturated within the head"


def _below(scores: Scores, baselines: Mapping[str, Scores]) -> Iterator[str]:
    for name, label in _REGRESSIONS.items():
        both = scores.at_both(baselines.get(name, Scores({})))
        ours, theirs = (its.final.get("psnr_db") for its in both)
        if ours is not None and theirs is not None and round(ours, 2) < round(theirs, 2):  # as told
            yield f"the model is below {label}: {ours:.2f} dB against {theirs:.2f} dB; use that, or train longer"


def _not_moving(validation_db: Sequence[float]) -> Iterator[str]:
    if len(validation_db) > 2 and max(validation_db) - min(validation_db) < MOVED_DB:
        yield f"the validation never moved: {validation_db[0]:.2f} dB before training and after every round"


def _far_below(scores: Scores, own: Scores) -> Iterator[str]:
    for site, score in scores.sites.items():
        others = [its.psnr_db for name, its in scores.sites.items() if name != site]
        if others and score.psnr_db < (middle := median(others)) - FAR_BELOW_DB:
            which = " with the global model" if site in own.sites else ""
            yield (
                f"{site} is far below the other sites{which}: {score.psnr_db:.2f} dB, their median is {middle:.2f} dB"
            )


def _own_below(scores: Scores, own: Scores) -> Iterator[str]:
    both = scores.at_both(own)
    for site in both[0].sites:
        common, its = (round(score.sites[site].psnr_db, 2) for score in both)  # as told
        if its < common:
            below = f"{common - its:.2f} dB below the global one ({its:.2f} and {common:.2f} dB)"
            yield f"{site}: its personal model is {below}"
