"""The site's own last layer, for hospitals that have no target to solve one from. It is solved from the site's training
subjects without noise. `client.border.egress` lets it leave where `policy.share_last_layer` says so, and nowhere else.
"""

import logging
from pathlib import Path

from agi_core.errors import PolicyError, RunError
from agi_core.protocol import LAST_LAYER_ARRAY, Reply, pack
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
    may_leave = job.site.policy.share_last_layer and job.task.personal == "head" and not job.private
    try:
        of_told = may_leave and told_among(job, "train", trained_on) == trained_on
        if of_told and read_made_of(path) == job.scans.training_digest:
            load_own_weights(path, network=job.network)
            layer = pack({LAST_LAYER_ARRAY: job.network.readout})
            return job.reply(num_examples=len(trained_on), metrics={}, weights=layer)
    except (PolicyError, RunError) as error:
        log.warning("no last layer to tell: %s", error)
    job.held_back.append(LAST_LAYER_ARRAY)
    return job.reply(num_examples=0, metrics={})
