"""The one way out: everything that leaves a site passes `leave`.

What may leave is named here and nowhere else: the round's weights, the number of examples, and the means of
`ALLOWED_METRICS`, finite and rounded. No path, subject identifier, date or exception text can pass, because no other
field exists.
"""

import dataclasses
import math

from agi_core.errors import ProtocolError
from agi_core.metric_names import METRICS
from agi_core.protocol import Reply

ALLOWED_METRICS = (
    frozenset(METRICS) | {f"validation_{name}" for name in METRICS} | {"validation_subjects", "train_loss", "seconds"}
)
DECIMALS = 5


def leave(reply: Reply, *, private: bool) -> Reply:
    """The reply as it may leave the site.

    Args:
        private: the site trains privately: its trained weights leave, and no metric with them.

    Raises:
        ProtocolError: a metric is not allowed or not finite.
    """
    if private and reply.weights is not None and reply.metrics:
        raise ProtocolError(f"{', '.join(reply.metrics)} may not leave with privately trained weights")
    for name, value in reply.metrics.items():
        if name not in ALLOWED_METRICS:
            raise ProtocolError(f"metric {name} may not leave the site; allowed: {', '.join(sorted(ALLOWED_METRICS))}")
        if not math.isfinite(value):
            raise ProtocolError(f"metric {name} is {value}; only finite values leave the site")
    return dataclasses.replace(reply, metrics={name: round(value, DECIMALS) for name, value in reply.metrics.items()})
