"""The common prior, solved from the statistics that sites tell (`agi_core.ridge`)."""

from collections.abc import Mapping

from agi_core.errors import ProtocolError
from agi_core.protocol import Reply, Request, unpack
from agi_core.ridge import STRENGTH, Statistics, Vector
from server.update_gate import Verdict

Told = tuple[Statistics, int]  # of a site, and its training subjects


def judge_statistics(replies: Mapping[str, Reply], request: Request, *, features: int) -> Verdict[Told]:
    """The verdict on replies to a question for statistics. Each has passed `check_answer`."""
    accepted: dict[str, Told] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        try:
            if reply.weights is None or reply.num_examples < 1:
                raise ProtocolError("the reply holds no statistics")
            accepted[site] = Statistics.from_arrays(unpack(reply.weights), features=features), reply.num_examples
        except ProtocolError as error:
            refused[site] = str(error)
    return Verdict(accepted, refused=refused)


def common_prior(told: Mapping[str, Told]) -> Vector:
    """The coefficients that fit all sites best: each counts as often as it has training subjects."""
    statistics, subjects = zip(*told.values(), strict=True)
    return Statistics.mean(statistics, subjects).solve(strength=STRENGTH)
