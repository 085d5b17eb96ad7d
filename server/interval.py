"""The 90 % interval of a run: sites are asked how large errors are on their validation subjects, and
`agi_core.pooled_errors` makes the run's error model of the answers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agi_core import conformal
from agi_core.config.schema import RunConfig
from agi_core.conformal import Counts
from agi_core.errors import DataError
from agi_core.network import Network
from agi_core.pooled_errors import COUNTS, Told, layers_of, with_layer
from agi_core.protocol import ERROR_COUNTS, ERROR_STATISTICS, Reply, Request, Weights, pack
from agi_core.run.error_model import NAME, write_error_model
from agi_core.run.events import IntervalSolved
from agi_core.uncertainty import VOXELS, ErrorModel
from server.common_prior import judge_feature_statistics
from server.update_gate import Verdict, array_in

LEAST_SITES = 2  # one site's errors are foreseen by another's
Counted = tuple[Counts, int]  # of a site, and of how many subjects
Ask = Callable[..., Mapping[str, Any]]
"""Sites, question, weights and judge -> {site: what the judge accepts}; of_site={site: what its question brings in
place of the weights}"""


def judge_error_counts(replies: Mapping[str, Reply], request: Request) -> Verdict[Counted]:
    """The verdict on replies to the second question. A site that holds them back, or has no validation subject, is left
    out."""
    accepted: dict[str, Counted] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        if reply.weights is None:
            continue
        counts = array_in(reply, COUNTS)
        if counts is None or counts.shape != (len(conformal.EDGES) + 1,) or counts.dtype != np.int64:
            refused[site] = "the reply holds no counts of errors"
        elif counts.min() < 0 or reply.num_examples < 1 or sum(counts.tolist()) != VOXELS * reply.num_examples:
            refused[site] = f"the reply's counts are not of {VOXELS} voxels of each subject"
        else:
            accepted[site] = counts, reply.num_examples
    return Verdict(accepted, refused=refused)


def solve_interval(
    run_dir: Path, config: RunConfig, weights: Weights, *, sites: Sequence[str], ask: Ask
) -> IntervalSolved:
    """Ask the sites, and write the error model of these weights into the run's folder, if two tell enough.

    Raises:
        RunError: it cannot be written.
    """
    network = Network(config)
    network.load(weights)
    judge = partial(judge_feature_statistics, features=network.readout.size)
    told: Mapping[str, Told] = ask(sites, ERROR_STATISTICS, weights, judge)
    counted: Mapping[str, Counted] = {}
    if len(told) >= LEAST_SITES:
        common, of_others = layers_of(told)
        packed = pack(weights)
        of_site = {site: with_layer(packed, layer) for site, layer in of_others.items()}
        counted = ask([*told], ERROR_COUNTS, weights, judge_error_counts, of_site=of_site)
    left_out = [site for site in config.federation.sites if site not in counted]
    without = f"; without {', '.join(left_out)}, who told nothing of errors" if left_out else ""
    if not counted:
        count = 0 if len(told) >= LEAST_SITES else len(told)
        told_by = f"{count} of {len(config.federation.sites)} sites told how large errors are"
        return IntervalSolved(
            said=f"no 90 % interval: {told_by}, and it takes {LEAST_SITES}; make it with python -m agi_core calibrate",
            left_out=left_out,
        )
    subjects = {site: count for site, (_, count) in counted.items()}
    model = ErrorModel(
        common, np.sum([counts for counts, _ in counted.values()], axis=0), sum(subjects.values()), len(counted)
    )
    try:
        factor = model.factor
    except DataError as error:
        return IntervalSolved(said=f"no 90 % interval: {error}", subjects=subjects, left_out=left_out)
    write_error_model(run_dir / NAME, model, network=network)
    return IntervalSolved(
        said=f"90 % interval: {factor:.2f} expected errors, by {model.subjects} validation subjects at"
        f" {len(counted)} of {len(config.federation.sites)} sites{without}",
        factor=factor,
        subjects=subjects,
        covered={site: conformal.covered(counts, factor) for site, (counts, _) in counted.items()},
        left_out=left_out,
    )
