"""The update gate: what a reply must satisfy before any of it is used. The server trusts no reply.

A reply answers this very request and counts no more subjects than are registered. The reply to a training request has
exactly the parameters that were sent, and all are finite. Its change is bounded. All parameters are one vector,
u = |reply - sent| / sqrt(steps of the reply), and c is the limit of the round:

    u <= c             averaged as it is
    c < u <= 10 c      scaled down to c
    u > 10 c           refused

    c = min(ceiling, 3 x median of u over the round's sites);  with fewer than three sites, the ceiling
    ceiling = federation.max_update_norm, or what AdamW can do in this round
    with privacy: c = max(c, 3 x the change that noise alone makes)

Adam divides by the size of the gradients, even of noisy ones. So its change hardly depends on a site's size, data or
noise. Honest sites differ by far less than a factor of 3.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from agi_core.config.schema import RunConfig, Task
from agi_core.errors import ProtocolError
from agi_core.keys import KeyTable
from agi_core.metric_table import is_possible
from agi_core.privacy.trainable import names_of
from agi_core.protocol import ALLOWED_METRICS, Parts, Reply, Request, Weights, model_hash, unpack
from agi_core.schedule import learning_rate
from server.aggregation import SiteUpdate

MEDIANS = 3.0
NOISE_NORMS = 3.0
REFUSED_AT = 10.0
LARGEST_FIGURE = 1e9  # sums of larger figures could overflow
ADAMW_RATIO = 2.0
"""After a sudden large gradient, Adam moves a weight in step t by up to lr sqrt(0.1 t / (1 - 0.9^t)). In all other
steps it moves a weight by at most lr."""

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """What is used of one round's replies. `clipped` and `refused` are {site: why} of the replies that were scaled down
    and of those that are not used."""

    accepted: Mapping[str, T]
    clipped: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def check_answer(reply: Reply, request: Request, *, registered: int | None) -> None:
    """Raise ProtocolError unless the reply answers this very request: its run, round and nonce. It may tell only the
    figures that a site may tell, and count at most the `registered` subjects (None: not known)."""
    for name in ("run_id", "round", "nonce"):
        if getattr(reply, name) != getattr(request, name):
            raise ProtocolError(f"the reply's {name} is not that of the request")
    if unknown := [name for name in reply.metrics if name not in ALLOWED_METRICS]:
        raise ProtocolError(f"the reply tells {', '.join(unknown)}, which nobody asked for")
    for name, value in reply.metrics.items():
        if abs(value) > LARGEST_FIGURE or not is_possible(name, value):
            raise ProtocolError(f"the reply's {name}={value:g} cannot be")
    most = math.inf if registered is None else registered
    for what, count in (("", reply.num_examples), ("validation ", reply.metrics.get("validation_subjects", 0))):
        if not 0 <= count <= most or count != int(count):
            raise ProtocolError(f"the reply counts {count:g} {what}subjects, {registered} are registered")


def array_in(reply: Reply, name: str) -> NDArray[Any] | None:
    """The array of that name in the answer to a question; None where there is none, or the answer cannot be read."""
    try:
        return None if reply.weights is None else unpack(reply.weights).get(name)
    except ProtocolError:
        return None


def judge_figures(replies: Mapping[str, Reply], request: Request) -> Verdict[Reply]:
    """The verdict on replies to an evaluation. `check_answer` has checked all that can be checked."""
    return Verdict(replies)


def judge_updates(replies: Mapping[str, Reply], request: Request, *, config: RunConfig) -> Verdict[SiteUpdate]:
    """The verdict on replies to a training request. Each has passed `check_answer`."""
    updates: dict[str, SiteUpdate] = {}
    refused: dict[str, str] = {}
    sent = unpack(request.weights)
    for site, reply in sorted(replies.items()):
        try:
            updates[site] = read_update(reply, request, site, sent=sent, task=config.task)
        except ProtocolError as error:
            refused[site] = str(error)

    norms = {site: _distance(update.weights, sent) / math.sqrt(replies[site].steps) for site, update in updates.items()}
    limit = norm_limit(sent, [*norms.values()], config=config, round=request.round)
    accepted: dict[str, SiteUpdate] = {}
    clipped: dict[str, str] = {}
    for site, update in updates.items():
        excess = norms[site] / limit
        if excess > REFUSED_AT:
            refused[site] = f"its change is {excess:.3g} times the limit of this round"
        elif excess > 1:
            clipped[site] = f"its change was {excess:.3g} times the limit of this round, and was scaled down to it"
            accepted[site] = replace(update, sent=sent, kept=1 / excess)
        else:
            accepted[site] = update
    return Verdict(accepted, clipped, refused)


def read_update(reply: Reply, request: Request, site: str, *, sent: Weights, task: Task) -> SiteUpdate:
    """The reply to a training request, which sent these weights, as an update. Its change is not judged here.

    Raises:
        ProtocolError: other parameter names, shapes or dtypes, a value that is not finite, a change of what the run
            keeps (`agi_core.keys`), no training subject, or another number of steps than 1 to `training.local_steps`.
    """
    if reply.weights is None:
        raise ProtocolError("the reply to a training request holds no weights")
    if reply.weights.manifest != request.weights.manifest:
        got, expected = model_hash(reply.weights.manifest), model_hash(request.weights.manifest)
        raise ProtocolError(f"the reply's weights are of model {got}, expected {expected}")
    if reply.num_examples < 1:
        raise ProtocolError(f"the reply counts {reply.num_examples} training subjects")
    if not 1 <= reply.steps <= task.training.local_steps:
        raise ProtocolError(f"the reply names {reply.steps} steps, {task.training.local_steps} were asked for")
    weights = Parts(reply.weights)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ProtocolError(f"the reply's {name} is not finite")
    for name in KeyTable.of(task, {name: array.ndim for name, array in sent.items()}).frozen:
        if not np.array_equal(weights[name], sent[name]):
            raise ProtocolError(f"the reply changes {name}, which this run keeps as it is")
    return SiteUpdate(site, weights, reply.num_examples, reply.metrics, reply.suppressed)


def norm_limit(sent: Weights, norms: Sequence[float], *, config: RunConfig, round: int) -> float:
    """c: the largest change over the square root of its steps that is averaged as it is.

    Args:
        norms: those of all the round's sites.
    """
    parameters, steps = sum(array.size for array in sent.values()), config.training.local_steps
    limit = config.federation.max_update_norm
    if limit is None:
        rates = _rates(config, config.training.learning_rate, round)
        limit = ADAMW_RATIO * sum(rates) * math.sqrt(parameters / steps)
    if len(norms) >= 3:
        limit = min(limit, MEDIANS * statistics.median(norms))
    if config.privacy.on:
        names = names_of(config.privacy.trainable, {name: array.ndim for name, array in sent.items()})
        noise = noise_norm(config, parameters=sum(sent[name].size for name in names), round=round)
        limit = max(limit, NOISE_NORMS * noise / math.sqrt(steps))
    return max(limit, np.finfo(float).tiny)  # if no site changed anything, the median is 0


def noise_norm(task: Task, *, parameters: int, round: int) -> float:
    """The expected change of the weights in a private round whose gradients are noise alone. It does not depend on the
    size of the noise.

    AdamW moves each weight by lr_t m_t / sqrt(v_t), and v_t is the variance of the noise. The noise g_k of step k is in
    every m_t from k on, with the factor 0.1 0.9^(t-k) / (1 - 0.9^(t+1)). See
    `agi_core.training.train_round_privately`.
    """
    rates = _rates(task, task.privacy.learning_rate, round)
    heard = [0.1 * rate / (1 - 0.9 ** (t + 1)) for t, rate in enumerate(rates)]
    moved, squares = 0.0, 0.0
    for weight in reversed(heard):
        moved = weight + 0.9 * moved
        squares += moved**2
    return math.sqrt(parameters * squares)


def _rates(task: Task, peak: float, round: int) -> list[float]:
    """The learning rate of each step of a round."""
    schedule = replace(task.training, learning_rate=peak)
    return [learning_rate(schedule, rounds=task.rounds, round=round, step=step) for step in range(schedule.local_steps)]


def _distance(weights: Mapping[str, NDArray[Any]], sent: Weights) -> float:
    """Euclidean distance, all parameters as one vector; inf where it overflows."""
    with np.errstate(over="ignore"):
        changes = (np.subtract(array, sent[name], dtype=np.float64) for name, array in weights.items())
        return math.sqrt(sum(float(np.square(change).sum()) for change in changes))
