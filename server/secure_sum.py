"""A round whose updates the coordinator does not see (`agi_core.secure_sum`): each site tells a key, then those that
have told one send masked vectors. These are of use only together, so where one is missing a new attempt begins."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from agi_core.config.schema import FederationConfig, RunConfig
from agi_core.errors import ProtocolError, RunError
from agi_core.keys import KeyTable
from agi_core.protocol import KEYS, TRAIN, Parts, Reply, Request, Weights, unpack
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import Retried, RunPaused
from agi_core.secure_sum import FEWEST, SUBJECT_BITS, Attempt, Participant, changed, check_key, mean_of
from server.aggregation import SiteUpdate
from server.collector import Collector
from server.exchange import Exchange
from server.run_state import RunState
from server.update_gate import Verdict, norm_limit


class SecureSum:
    """The training rounds of one run, over its exchange and its collector."""

    def __init__(
        self, exchange: Exchange, collector: Collector, *, config: RunConfig, state: RunState, events: EventLog
    ) -> None:
        self._exchange, self._collector, self._config = exchange, collector, config
        self._state, self._events = state, events

    def train(
        self, sites: Sequence[str], *, round: int, wait_for_all: bool
    ) -> tuple[dict[str, SiteUpdate], SiteUpdate]:
        """What each site tells in the clear, beside its masked vector; and the mean of all updates, as one of them.

        Raises:
            RunError: fewer sites than the quorum, or than three, told keys; one dropped out of each attempt; or the sum
                is not one of clipped updates.
        """
        weights, federation = self._state.weights, self._config.federation
        names = sorted(KeyTable.of(self._config, {name: array.ndim for name, array in weights.items()}).shared)
        size, asking = sum(weights[name].size for name in names), sites
        first = 1 + self._attempts_before(round)
        for number in range(first, first + 1 + federation.retries):
            needed = least_sites(federation, expected=len(self._state.expected(sites)))
            keys = self._collector.collect(
                asking,
                self._request(KEYS, round=round, weights={}, attempt=Attempt(number)),
                partial(judge_keys, registered=federation.keys),
                quorum=needed,
                wait_for_all=wait_for_all and number == first,
            )
            attempt = Attempt(number, self._bound(round), keys)
            request = self._request("", round=round, weights=weights, attempt=attempt)
            judge = partial(judge_vectors, size=size, most_steps=self._config.training.local_steps)
            updates = self._collector.collect([*keys], request, judge, quorum=0)
            if len(updates) == len(keys):
                return updates, self._mean(updates, attempt, names=names, size=size)
            self._events.append(Retried(round=round, action=TRAIN, answered=[*updates]))
            asking = [*updates] if len(updates) >= needed else sites
        attempts = 1 + federation.retries
        raise RunError(f"round {round}: a site dropped out of the secure sum in each of {attempts} attempts")

    def _attempts_before(self, round: int) -> int:
        """As many as the round has had, or more, before the run paused in it: to the same numbers a site would tell the
        same keys again, which it has used."""
        pauses = events_of(self._events.path.parent, RunPaused)
        return sum(pause.round == round - 1 for pause in pauses) * (1 + self._config.federation.retries)

    def _request(self, subjects: str, *, round: int, weights: Weights, attempt: Attempt) -> Request:
        request = self._exchange.request(TRAIN, round=round, weights=weights, subjects=subjects)
        return replace(request, secure_sum=attempt.text)

    def _bound(self, round: int) -> float:
        """The norm to which a site clips its update: the ceiling of `server.update_gate`, for all steps."""
        limit = norm_limit(self._state.weights, [], config=self._config, round=round)
        return limit * math.sqrt(self._config.training.local_steps)

    def _mean(
        self, updates: Mapping[str, SiteUpdate], attempt: Attempt, *, names: Sequence[str], size: int
    ) -> SiteUpdate:
        counts, vectors = self._config.federation.subjects, (update.weights["sum"] for update in updates.values())
        most = sum(counts.get(site, 2**SUBJECT_BITS) for site in updates)
        try:
            mean, subjects = mean_of(vectors, attempt, size=size, most_subjects=most)
        except ProtocolError as error:
            raise RunError(
                f"{error}: one of {', '.join(updates)} sent something else, and nobody can see which"
            ) from None
        return SiteUpdate("the sum", changed(self._state.weights, mean, names=names), subjects)


def least_sites(config: FederationConfig, *, expected: int) -> int:
    """How many sites an attempt needs: the quorum, or all that are expected; never fewer than three."""
    return max(FEWEST, config.quorum or expected)


def judge_keys(
    replies: Mapping[str, Reply], request: Request, *, registered: Mapping[str, str]
) -> Verdict[Participant]:
    """The verdict on keys. Each is signed by the site's own, which is the `registered` one where that is known."""
    accepted: dict[str, Participant] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        try:
            told = _participant(reply)
            if registered.get(site, told.public_key) != told.public_key:
                raise ProtocolError("the key for the secure sum is signed by one that is not the registered")
            check_key(told, request, site=site)
            accepted[site] = told
        except ProtocolError as error:
            refused[site] = str(error)
    return Verdict(accepted, refused=refused)


def judge_vectors(replies: Mapping[str, Reply], request: Request, *, size: int, most_steps: int) -> Verdict[SiteUpdate]:
    """The verdict on masked vectors. Nothing but their form and size can be judged."""
    accepted: dict[str, SiteUpdate] = {}
    refused: dict[str, str] = {}
    for site, reply in sorted(replies.items()):
        try:
            arrays = {} if reply.weights is None else Parts(reply.weights)
            if {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} != {
                "sum": ((size + 1,), "uint64")
            }:
                raise ProtocolError(f"the reply holds no vector of {size + 1} numbers for the secure sum")
            if reply.num_examples or not 1 <= reply.steps <= most_steps:
                raise ProtocolError(f"the reply names {reply.num_examples} subjects and {reply.steps} steps")
            accepted[site] = SiteUpdate(site, arrays, 0, reply.metrics, reply.suppressed)
        except ProtocolError as error:
            refused[site] = str(error)
    return Verdict(accepted, refused=refused)


def _participant(reply: Reply) -> Participant:
    try:
        arrays = {} if reply.weights is None else unpack(reply.weights)
        return Participant.from_json(json.loads(arrays["key"].tobytes()))
    except (ProtocolError, KeyError, ValueError, TypeError, RecursionError):
        raise ProtocolError("the reply holds no key for the secure sum") from None
