"""The site's own last layer, for hospitals that have no target to solve one from, and what it tells towards one for
all. Both are of the site's training subjects, without noise. `client.border.egress` lets them leave where
`policy.share_last_layer` says so, and nowhere else.
"""

import logging
from pathlib import Path

from agi_core.errors import PolicyError, RunError
from agi_core.protocol import LAST_LAYER_ARRAY, LAYER_STATISTICS, OF_LAST_LAYER, Reply, pack
from agi_core.readout import readout_statistics
from agi_core.ridge import Statistics
from agi_core.run.own_weights import load_own_weights, own_weights_path, read_made_of
from client.work.evaluation import told_among
from client.work.job import Job

log = logging.getLogger("client")


def tell_last_layer(job: Job) -> Reply:
    """The layer that the final test has solved for the weights that came, as one vector (K + C,): `Network.readout`.

    It is held back where the policy does not share it, where the site or the run trains privately, where the site has
    trained more than this layer on alone, or has none, and where the training subjects are not those that it tells of
    (`client.site.told`), or not those that the layer was solved from.
    """
    path = own_weights_path(Path(job.site.state_dir), run_id=job.request.run_id)
    trained_on = {*job.scans.training.subjects}
    try:
        of_told = _may_leave(job) and told_among(job, "train", trained_on) == trained_on
        if of_told and read_made_of(path) == job.scans.training_digest:
            load_own_weights(path, network=job.network)
            layer = pack({LAST_LAYER_ARRAY: job.network.readout})
            return job.reply(num_examples=len(trained_on), metrics={}, weights=layer)
    except (PolicyError, RunError) as error:
        log.warning("no last layer to tell: %s", error)
    job.held_back.append(LAST_LAYER_ARRAY)
    return job.reply(num_examples=0, metrics={})


def tell_layer_statistics(job: Job) -> Reply:
    """The mean over training subjects of the statistics of all features of the weights that came: as the statistics of
    the prior's alone, which a site tells before the first round, of the subjects that it tells of (`client.site.told`).

    They are held back where the policy does not share the last layer, which is solved from them, where the site or the
    run trains privately, and where there is no such set of subjects.
    """
    if _may_leave(job):
        statistics = readout_statistics(job.network, job.scans.training.sessions)
        try:
            told = told_among(job, "train", statistics)
            if told:
                mean = Statistics.mean([statistics[subject] for subject in sorted(told)])
                return job.reply(num_examples=len(told), metrics={}, weights=pack(mean.arrays()))
        except PolicyError as error:
            log.warning("no statistics of the last layer to tell: %s", error)
    job.held_back.append(OF_LAST_LAYER[LAYER_STATISTICS])
    return job.reply(num_examples=0, metrics={})


def _may_leave(job: Job) -> bool:
    return job.site.policy.share_last_layer and job.task.personal == "head" and not job.private
