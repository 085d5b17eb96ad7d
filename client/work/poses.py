"""What a site tells of poses (`agi_core.poses`): how far each source lies from the target, one number per source."""

import math
from pathlib import Path

import numpy as np

from agi_core.errors import PolicyError
from agi_core.poses import SUBJECTS, offsets_mm
from agi_core.protocol import POSES_ARRAY, Reply, pack
from agi_core.scenario import parse_scenario
from client.site.policy import require
from client.site.told import told_few
from client.work.job import Job


def tell_poses(job: Job) -> Reply:
    """The distances of up to SUBJECTS training subjects, of the same ones while they are there (`client.site.told`).

    Raises:
        PolicyError: the site has fewer subjects than its policy's minimum, trains privately, registers its scans, or
            has no slice that holds a head.
    """
    if job.private:
        raise PolicyError("privacy: distances have no noise, so a site that trains privately does not tell them")
    if job.site.data.register != "none":
        raise PolicyError("data.register: scans that are registered lie in one pose")
    count, least = len(job.scans.subjects.all), job.site.policy.minimum_subjects
    require(count >= least, "policy.minimum_subjects", asked=f"distances in {count} subjects", allowed=f"{least}")
    subjects = job.scans.subjects
    told = told_few(
        Path(job.site.state_dir), "poses", subjects.train, most=SUBJECTS, known_as=subjects.known_as, minimum=least
    )
    chosen = {subject.id for subject in told}
    sessions = [session for session in job.scans.training.sessions if session.subject_id in chosen]
    measured = offsets_mm(sessions, parse_scenario(job.task.scenario))
    if any(map(math.isnan, measured.values())):
        raise PolicyError("no slice of the training subjects holds a head, so there is nothing to measure")
    return job.reply(num_examples=len(chosen), metrics={}, weights=pack({POSES_ARRAY: np.array([*measured.values()])}))
