"""The common prior, solved from what sites tell: statistics (`agi_core.ridge`), or in a private run their share of one
private step from the public prior that the run starts with (`agi_core.privacy.private_prior`)."""

from collections.abc import Mapping

import numpy as np

from agi_core.config.schema import FederationConfig, PrivacyConfig
from agi_core.errors import ProtocolError
from agi_core.network import Network
from agi_core.pooled_errors import LARGEST_FEATURE
from agi_core.protocol import Reply, Request, unpack
from agi_core.ridge import STRENGTH, Statistics, Vector, whitening
from server.aggregation import SiteUpdate, aggregate
from server.update_gate import Verdict, array_in

Told = tuple[Statistics, int]  # of a site, and its training subjects
ToldStep = tuple[Vector, int]


def judge_statistics(
    replies: Mapping[str, Reply], request: Request, *, features: int, largest: float = 1.0
) -> Verdict[Told]:
    """The verdict on replies to a question for statistics of so many features, none of which exceeds `largest`. Each
    has passed `check_answer`."""
    accepted: dict[str, Told] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        try:
            if reply.weights is None or reply.num_examples < 1:
                raise ProtocolError("the reply holds no statistics")
            statistics = Statistics.from_arrays(unpack(reply.weights), features=features, largest=largest)
            accepted[site] = statistics, reply.num_examples
        except ProtocolError as error:
            refused[site] = str(error)
    return Verdict(accepted, refused=refused)


def set_common_prior(network: Network, told: Mapping[str, Told], *, federation: FederationConfig) -> None:
    """Give the network the `common_solution` as its prior. Raises RunError as that does."""
    prior, gram = common_solution(told, federation=federation)
    network.set_prior(prior, gram=gram)


def judge_feature_statistics(replies: Mapping[str, Reply], request: Request, *, features: int) -> Verdict[Told]:
    """`judge_statistics` of all features of a network, the prior's and its own. A site that holds them back is left
    out."""
    told = {site: reply for site, reply in replies.items() if reply.weights is not None}
    return judge_statistics(told, request, features=features, largest=LARGEST_FEATURE)


def common_solution(
    told: Mapping[str, Told], *, federation: FederationConfig, towards: Vector | None = None
) -> tuple[Vector, Vector]:
    """The w that fits all sites best, and the gram matrix over them: each counts as often as it has training subjects.

    With another rule of aggregation than the mean it is what that rule makes of each site's own solution, which no few
    sites decide. Statistics of bright voxels outweigh all others in a mean. The rule compares coordinates in which the
    median gram matrix of the sites is the identity: there, equal distances are equal errors of the prediction.

    Args:
        towards: what statistics do not determine is as here; else as near to 0 as can be.

    Raises:
        RunError: fewer sites told statistics than the rule needs.
    """
    statistics, subjects = zip(*told.values(), strict=True)
    common = Statistics.mean(statistics, subjects)
    if federation.aggregation == "mean":
        return common.solve(strength=STRENGTH, towards=towards), common.gram
    gram = np.median([its.gram for its in statistics], axis=0)
    white = whitening(gram)
    updates = [
        SiteUpdate(site, {"w": np.linalg.solve(white, its.solve(strength=STRENGTH, towards=towards))}, count)
        for site, (its, count) in told.items()
    ]
    return white @ aggregate(updates, config=federation)["w"], gram


def judge_steps(replies: Mapping[str, Reply], request: Request, *, features: int) -> Verdict[ToldStep]:
    """The verdict on replies to the same question in a private run: {site: (its share of the step, N)}."""
    accepted: dict[str, ToldStep] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        step = array_in(reply, "step")
        if step is None or step.shape != (features,) or step.dtype != np.float64 or not np.isfinite(step).all():
            refused[site] = f"the reply holds no step of {features} coefficients"
        elif reply.num_examples < 1:
            refused[site] = "the reply counts no subject"
        else:
            accepted[site] = step, reply.num_examples
    return Verdict(accepted, refused=refused)


def take_private_step(network: Network, told: Mapping[str, ToldStep], *, privacy: PrivacyConfig) -> None:
    """Move the network's public prior by the sites' common step."""
    from agi_core.privacy.private_prior import common_step, planned_release  # here: Opacus takes seconds

    prior, gram = network.prior, network.prior_gram
    assert prior is not None and gram is not None  # noqa: S101, PT018  else nobody was asked
    sigma = planned_release(privacy).noise_multiplier
    network.set_prior(prior + whitening(gram) @ common_step([*told.values()], noise_multiplier=sigma))
