"""The last layer for all: solved after the last round, from the statistics of those sites that share their own.

Training ends with a last layer that AdamW made and an average blurred. The one that fits all sites best follows from
the mean products of its features, as the prior does (`server.common_prior`), now with the network's features. It is
what hospitals use that have no target to solve a last layer of their own from.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median_low

from agi_core.config.schema import RunConfig
from agi_core.errors import RunError
from agi_core.network import Network
from agi_core.protocol import LAYER_STATISTICS, VALIDATION, Weights
from agi_core.run.events import LastLayerSolved
from agi_core.run.scores import SiteScore
from server.common_prior import Told, common_solution, judge_feature_statistics
from server.evaluation import validation_scores
from server.interval import Ask
from server.update_gate import judge_figures


def solves_last_layer(config: RunConfig) -> bool:
    """Whether sites are asked at all: not where statistics without noise, or of a single site, must not leave."""
    return config.personal == "head" and not config.privacy.on and not config.federation.secure_sum


def solve_last_layer(
    config: RunConfig, weights: Weights, *, validation_db: Mapping[str, float], sites: Sequence[str], ask: Ask
) -> tuple[Weights, dict[str, SiteScore], LastLayerSolved]:
    """The weights with the last layer that fits the sites best, its validation, and what came of it.

    A majority of all training sites must tell statistics, and a majority of those that validated the trained layer
    must find the solved one no worse. Else the weights are those that came: statistics of few, or of one that lies,
    spoil nothing that the others can see. Where no site validates, nobody can see it.

    Args:
        validation_db: each site's PSNR with the weights that came.
        sites: who is asked.
    """
    network = Network(config)
    network.load(weights)
    judge = partial(judge_feature_statistics, features=network.readout.size)
    told: Mapping[str, Told] = ask(sites, LAYER_STATISTICS, weights, judge)
    everybody = config.federation.sites
    solved = partial(LastLayerSolved, sites=[*told], left_out=[site for site in everybody if site not in told])
    if not told:
        why = "no site lets statistics of it leave (policy.share_last_layer)"
        return weights, {}, solved(why=why)
    if len(told) <= len(everybody) / 2:
        why = f"only {', '.join(told)} of {len(everybody)} sites told statistics of it (policy.share_last_layer)"
        return weights, {}, solved(why=why)
    try:
        layer, _ = common_solution(told, federation=config.federation, towards=network.readout)
    except RunError as error:
        return weights, {}, solved(why=str(error))
    network.set_readout(layer)
    candidate = {name: array.copy() for name, array in network.weights.items()}
    validated = validation_scores(ask(sites, VALIDATION, candidate, judge_figures))
    gains = {
        site: round(its.psnr_db - validation_db[site], 5) for site, its in validated.items() if site in validation_db
    }
    why = ""
    if validation_db and len(gains) <= len(validation_db) / 2:
        why = f"{len(gains)} of {len(validation_db)} sites validated the solved one"
    elif gains and (gain_db := median_low(gains.values())) < 0:
        why = f"the solved one is worse in validation, by {-gain_db:.2f} dB at the median site"
    if why:
        return weights, {}, solved(gains=gains, why=why)
    return candidate, validated, solved(gains=gains)
