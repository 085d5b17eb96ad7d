"""The reference of a run, and whether its target is aligned, by what sites tell of their scans (`agi_core.poses`)."""

from collections.abc import Mapping

import numpy as np

from agi_core.config.schema import RunConfig
from agi_core.poses import with_poses
from agi_core.protocol import POSES_ARRAY, Reply, Request
from agi_core.scenario import Scenario
from server.update_gate import Verdict, array_in

FARTHEST_MM = 500.0  # a head is smaller
Offsets = dict[str, float]


def judge_poses(replies: Mapping[str, Reply], request: Request, *, scenario: Scenario) -> Verdict[Offsets]:
    """The verdict on replies to a question for poses: {site: {source: mm}}. Each has passed `check_answer`."""
    accepted: dict[str, Offsets] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        told = array_in(reply, POSES_ARRAY)
        if told is None or told.shape != (len(scenario.sources),) or told.dtype != np.float64:
            refused[site] = f"the reply holds no distances of {len(scenario.sources)} sources"
        elif not ((told >= 0) & (told <= FARTHEST_MM)).all():
            refused[site] = f"the reply's distances do not lie between 0 and {FARTHEST_MM:g} mm"
        else:
            accepted[site] = dict(zip(scenario.sources, told.tolist(), strict=True))
    return Verdict(accepted, refused=refused)


def asks_for_poses(config: RunConfig) -> bool:
    """Whether something is left to choose that the sites' scans may decide: see `client.work.poses`."""
    return not config.privacy.on and (config.reference is None or config.training.align_target is None)


def chosen_by(config: RunConfig, told: Mapping[str, Offsets]) -> tuple[RunConfig, str]:
    """The configuration with what the run has left open, and a sentence that says so. Where no site has told, the
    reference is the last source, and the target stays where it is."""
    if told:
        return with_poses(config, told, reference_chosen=config.reference is not None)
    return config, "no site told distances: the reference is the last source, or the one given"
