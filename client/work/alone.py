"""The model that a site trains alone, from a run's first weights and in as many steps as the run has: what the common
model is compared with. It stays at the site, in `state_dir/alone`; means over the test subjects leave.

This takes about as long as all rounds of the run, and a request has a deadline. So a request is answered without
figures once half of its time is over, and the next one goes on where it ended.
"""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from agi_core.evaluation import evaluate
from agi_core.host import atomic
from agi_core.host.tensor_file import open_tensors
from agi_core.keys import rounds_alone
from agi_core.metric_table import METRIC_NAMES
from agi_core.network import Network
from agi_core.protocol import Reply, hash_of
from agi_core.readout import readout_statistics
from agi_core.ridge import solve_own
from agi_core.run import progress
from agi_core.training import train_round
from client.site.policy import Policy
from client.work.evaluation import means_of_all, told_tests
from client.work.job import Job

KEPT = 2  # of the newest runs: a run that is resumed asks again
log = logging.getLogger("client")


def train_alone(job: Job) -> Reply:
    """Go on with the model, for about half of the request's time; its figures on the test subjects once it is trained.

    All figures are held back, and nothing is trained, where the site's rules let none leave: without `policy.alone`;
    with a section `privacy`, because this model is trained without noise; or with `policy.secure_sum_with`, because
    from first weights that were made for it a figure tells of an update that is the site's alone.
    """
    may_tell = not job.private and _may_tell(job.site.policy, subjects=len(job.scans.subjects.all))
    if not may_tell or not (tests := told_tests(job)):
        job.held_back.extend(METRIC_NAMES)
        return job.reply(num_examples=0, metrics={})
    network, training = job.network, job.scans.training
    # FedProx's term holds a site to the common weights of a round, and here there are none.
    task = replace(job.task, rounds=rounds_alone(job.task), training=replace(job.task.training, proximal=0.0))
    path, half_s = _path(job), job.left_s / 2
    done = _resume(network, path)
    if not done and network.prior is not None:
        network.set_prior(solve_own([*job.scans.prior_statistics.values()], towards=network.prior))
    for round in range(done + 1, task.rounds + 1):
        on_step = progress.steps_of(f"alone, round {round}/{task.rounds}", job.site.site)
        train_round(network.module, training.draw, task=task, site=job.site.site, round=round, on_step=on_step)
        _keep(network, path, done=round)
        if job.left_s < half_s:
            return job.reply(num_examples=0, metrics={})
    if job.task.personal != "none":
        statistics = readout_statistics(network, training.sessions)
        network.set_readout(solve_own([*statistics.values()], towards=network.readout))
    scores = evaluate(network, tests, on_session=progress.steps_of("test", job.site.site))
    return job.reply(num_examples=len(scores), metrics=means_of_all(job, scores))


def _may_tell(policy: Policy, *, subjects: int) -> bool:
    """Whether the figure that all others are of no use without may leave."""
    told = policy.metrics is None or "psnr_db" in policy.metrics
    may_train = policy.alone and policy.secure_sum_with is None
    return may_train and told and subjects >= policy.minimum_subjects


def _path(job: Job) -> Path:
    """One file per run and first weights. The coordinator's text never becomes a path."""
    name = hashlib.sha256(f"{job.request.run_id}\n{job.request.task}\n{hash_of(job.request.weights)}".encode())
    return Path(job.site.state_dir) / "alone" / f"{name.hexdigest()[:24]}.safetensors"


def _resume(network: Network, path: Path) -> int:
    """How many rounds were trained before this request; the network has the weights after them."""
    try:
        with open_tensors(path) as file:
            done = int(file.metadata()["rounds"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except FileNotFoundError:
        return 0
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s), so the model that is trained alone begins anew", path, error)
        return 0
    network.load(weights)
    return done


def _keep(network: Network, path: Path, *, done: int) -> None:
    """Raises RunError where it cannot be written."""
    weights = {name: np.ascontiguousarray(array) for name, array in network.weights.items()}
    atomic.write_bytes(path, save(weights, metadata={"rounds": str(done)}))
    atomic.keep_newest(path, most=KEPT)
