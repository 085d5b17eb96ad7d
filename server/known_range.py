"""The known range of a run: sites are asked what the sources of their training subjects are like, and
`agi_core.pooled_range` makes the run's range of the answers."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from agi_core.config.schema import RunConfig
from agi_core.known_range import FEWEST, NAME, names_of
from agi_core.network import Network
from agi_core.pooled_range import MOMENTS, MOST, Told, are_possible, pooled
from agi_core.protocol import RANGE, Reply, Request, Weights
from agi_core.run.events import RangeLearnt
from server.interval import Ask
from server.update_gate import Verdict, array_in


def judge_range(replies: Mapping[str, Reply], request: Request, *, names: Sequence[str]) -> Verdict[Told]:
    """The verdict on replies to the question, of measures of these names. A site that holds them back is left out."""
    accepted: dict[str, Told] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        if reply.weights is None:
            continue
        told = array_in(reply, MOMENTS)
        if told is None or told.shape != (2, len(names)) or told.dtype != np.float64:
            refused[site] = f"the reply holds no moments of {len(names)} measures"
        elif not 1 <= reply.num_examples <= MOST:
            refused[site] = f"the reply's moments are of {reply.num_examples} subjects, and at most {MOST} are measured"
        elif not are_possible(told, names):
            refused[site] = "the reply's moments cannot be those of any subjects"
        else:
            accepted[site] = told, reply.num_examples
    return Verdict(accepted, refused=refused)


def learn_range(run_dir: Path, config: RunConfig, weights: Weights, *, sites: Sequence[str], ask: Ask) -> RangeLearnt:
    """Ask the sites, and write the known range into the run's folder, if they tell of FEWEST subjects.

    Raises:
        RunError: it cannot be written.
    """
    names = names_of(Network(config))
    told: Mapping[str, Told] = ask(sites, RANGE, weights, partial(judge_range, names=names))
    subjects = {site: count for site, (_, count) in told.items()}
    total, federation = sum(subjects.values()), config.federation.sites
    left_out = [site for site in federation if site not in told]
    said = f"of {total} training subjects at {len(told)} of {len(federation)} sites"
    said += f"; without {', '.join(left_out)}, who told nothing of their scans" if left_out else ""
    if total < FEWEST:
        said = f"no known range: it takes {FEWEST} subjects, and sites told {said}"
        said += "; make it with python -m agi_core calibrate"
        return RangeLearnt(said=said, subjects=subjects, left_out=left_out)
    pooled(told, names).write(run_dir / NAME)
    return RangeLearnt(said=f"known range: {said}", subjects=subjects, left_out=left_out)
