"""What a site solves in closed form (`agi_core.ridge`): the statistics that it tells, and the prior and weights of its
own, which stay here."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agi_core.errors import PolicyError
from agi_core.host import atomic
from agi_core.personal import own_weights
from agi_core.protocol import Reply, pack
from agi_core.ridge import Statistics, solve_own
from agi_core.run import progress
from agi_core.run.own_weights import own_weights_path, write_own_weights
from client.site.policy import require
from client.site.told import told_subjects
from client.work.job import Job

MOST_KEPT = 1024
"""Files of own weights: all cells of five runs over six modalities."""
MOST_KEPT_BYTES = 2 * 10**9
"""A last layer has some kilobytes, but with personal=finetune the file is a whole model."""


def tell_statistics(job: Job) -> Reply:
    """The mean over training subjects of the statistics of the prior's features, always of the same ones
    (`client.site.told`); in a private run the site's share of a private step from the public prior.

    Raises:
        PolicyError: the site has fewer subjects than its policy's minimum, or trains privately and the run does not.
        AgiError: see `client.work.private_training.tell_private_step`.
    """
    if job.private:
        privacy = job.privacy
        if not job.task.privacy.on:
            raise PolicyError("privacy: statistics have no noise, so a site that trains privately does not tell them")
        from client.work.private_training import tell_private_step  # here, because Opacus takes seconds to import

        step = pack(tell_private_step(job, privacy))
        return job.reply(num_examples=privacy.subjects, metrics={}, weights=step)
    count, least = len(job.scans.subjects.all), job.site.policy.minimum_subjects
    require(count >= least, "policy.minimum_subjects", asked=f"statistics of {count} subjects", allowed=f"{least}")
    statistics = job.scans.prior_statistics
    subjects = [subject for subject in job.scans.subjects.train if subject.id in statistics]
    told = told_subjects(
        Path(job.site.state_dir), "train", subjects, known_as=job.scans.subjects.known_as, minimum=least
    )
    mean = Statistics.mean([statistics[subject.id] for subject in told])
    return job.reply(num_examples=len(told), metrics={}, weights=pack(mean.arrays()))


@contextmanager
def over_own_prior(job: Job) -> Iterator[None]:
    """Within the block the network makes the residual over the site's own prior, shrunk to the one that it came with.

    Not in private training: the prior would be solved from subjects without noise, and each subject's gradient would
    depend on all others.
    """
    common = job.network.prior
    if common is None or job.private or job.task.personal == "none":
        yield
        return
    job.network.set_prior(solve_own([*job.scans.prior_statistics.values()], towards=common))
    try:
        yield
    finally:
        job.network.set_prior(common)


@contextmanager
def with_own_weights(job: Job) -> Iterator[None]:
    """Within the block the network is the site's own (`agi_core.personal`). What makes it so is kept in
    `state_dir/heads`, and the oldest that are too many are dropped there."""
    network, scans, site = job.network, job.scans, job.site
    common = {name: array.copy() for name, array in network.weights.items()}
    own = own_weights(
        network,
        scans.training,
        task=job.task,
        site=site.site,
        prior_statistics=None if network.prior is None else scans.prior_statistics,
        on_step=progress.steps_of("own weights", site.site),
    )
    path = own_weights_path(Path(site.state_dir), run_id=job.request.run_id)
    write_own_weights(path, own, network=network, made_of=scans.training_digest)
    atomic.keep_newest(path, most=MOST_KEPT, most_bytes=MOST_KEPT_BYTES)
    network.load({**common, **own})
    try:
        yield
    finally:
        network.load(common)
