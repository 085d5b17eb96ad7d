"""The update gate: what a reply must satisfy before its weights are averaged. The server trusts no reply."""

import numpy as np

from agi_core.errors import ProtocolError
from agi_core.protocol import Reply, Request, model_hash, unpack
from server.strategy import SiteUpdate


def check_answer(reply: Reply, request: Request) -> None:
    """Raise ProtocolError unless the reply answers this very request: its run, round and nonce."""
    for name in ("run_id", "round", "nonce"):
        if getattr(reply, name) != getattr(request, name):
            raise ProtocolError(f"the reply's {name} is not that of the request")


def admit(reply: Reply, request: Request, site: str) -> SiteUpdate:
    """The reply to a training request, as an update that may be averaged.

    Raises:
        ProtocolError: other parameter names, shapes or dtypes, a value that is not finite, no training subject.
    """
    if reply.weights is None:
        raise ProtocolError("the reply to a training request holds no weights")
    if reply.weights.manifest != request.weights.manifest:
        got, expected = model_hash(reply.weights.manifest), model_hash(request.weights.manifest)
        raise ProtocolError(f"the reply's weights are of model {got}, expected {expected}")
    if reply.num_examples < 1:
        raise ProtocolError(f"the reply counts {reply.num_examples} training subjects")
    weights = unpack(reply.weights)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ProtocolError(f"the reply's {name} is not finite")
    return SiteUpdate(site, weights, reply.num_examples, reply.metrics)
