"""What a site tells of its training subjects' sources (`agi_core.pooled_range`): mean and mean square of each measure.
They have no noise, so a site that trains privately does not tell them. `client.border.egress` has the rules of figures
hold."""

from pathlib import Path

from agi_core.calibration import measured
from agi_core.errors import PolicyError
from agi_core.known_range import names_of
from agi_core.pooled_range import MOMENTS, MOST, moments
from agi_core.protocol import RANGE_SUBJECTS, Reply, pack
from client.site.policy import require
from client.site.told import told_few
from client.work.job import Job


def tell_range(job: Job) -> Reply:
    """The moments of up to MOST training subjects, of the same ones as long as they are there (`client.site.told`).

    Raises:
        PolicyError: fewer subjects than the policy's minimum are measured (of two, mean and mean square tell both), the
            site trains privately, or it may tell of no set of these subjects.
        DataError: a scan is unusable.
    """
    if job.private:
        raise PolicyError("privacy: a known range has no noise, so a site that trains privately does not tell it")
    subjects, least = job.scans.subjects, job.site.policy.minimum_subjects
    count = min(len(subjects.train), MOST)
    asked = f"the range of {count} training subjects"
    require(count >= least, "policy.minimum_subjects", asked=asked, allowed=f"{least} or more")
    told = told_few(
        Path(job.site.state_dir), "range", subjects.train, most=MOST, known_as=subjects.known_as, minimum=least
    )
    register = job.site.data.register == "rigid"
    sources = measured(told, job.network, task=job.task, register=register, site=job.site.site)
    weights = pack({MOMENTS: moments(sources, names_of(job.network))})
    return job.reply(num_examples=len(told), metrics={RANGE_SUBJECTS: len(told)}, weights=weights)
