"""Requests to named sites and their checked replies, over any Flower grid.

Flower's own `send_and_receive` looks for replies every 3 s and does not say who is late. An `Exchange` looks every
`POLL_S` seconds, and its events name each site that does not answer.
"""

import dataclasses
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message
from flwr.serverapp import Grid

from agi_core.config.load import task_json
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.errors import (
    BudgetError,
    DeadlineError,
    MismatchError,
    NoneHeldError,
    NotHeldError,
    NotPrivateError,
    PolicyError,
    PrivacyError,
    ProtocolError,
    RunError,
)
from agi_core.host.console import printable
from agi_core.protocol import REFUSED, TRAIN, Packed, Reply, Request, Weights, pack
from agi_core.run import progress
from agi_core.run.event_log import EventLog
from agi_core.run.events import Exchanging, SiteFailed, SiteMissing, Waiting
from agi_core.signatures import sign
from agi_core.study import WholeStudy
from server.messages import (
    LONGEST_REASON,
    array_records,
    error_in,
    reply_in,
    request_message,
)
from server.nodes import Nodes
from server.pulls import Pulls
from server.spool import Spool
from server.update_gate import check_answer

T = TypeVar("T")
log = logging.getLogger("server")
POLL_S, CONNECTION_POLL_S = 0.2, 0.5  # at least between two looks: for replies, for sites that connect
MOST_POLL_S = 1.0  # between two looks that take long: most of the time the SuperLink has other work
AT_ONCE = 4  # so many answers are looked for before those that came go to the spool
AGAIN_S = (1.0, 2.0, 4.0, 8.0)  # before a SuperLink that is busy, or away for a moment, is asked again
GRACE_S = 10.0  # after the deadline: time for transport, and for a late site's own error reply
SITS_OUT = frozenset(
    error.public for error in (BudgetError, NoneHeldError, NotHeldError, NotPrivateError, PolicyError, PrivacyError)
)
"""The sentences of a site that has the right to sit out. It would refuse a second request too: for its rules, its
scans, its budget, or a ledger that it cannot trust. (A ledger that is in use for a while, `BusyError`, is an error as
any other, after which the site is asked again.)"""


@dataclass
class Outcome:
    """What came back from one exchange, by site.

    `replies` holds the replies to the request. `malformed` says why an answer is no reply, and `sitting_out` why a site
    has the right to sit out. `failed` names the sites of malformed answers and of all other errors, and `late` those
    that stayed connected and were not done at the deadline, or `federation.grace_s` after the quorum, whether they said
    so or nothing at all.
    """

    replies: dict[str, Reply] = field(default_factory=dict)
    malformed: dict[str, str] = field(default_factory=dict)
    sitting_out: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def settles(self, site: str) -> bool:
        """Whether asking the site again is of no use: it has replied, its reply was malformed, or it sits out."""
        return site in self.replies or site in self.malformed or site in self.sitting_out


class Exchange:
    """The conversation of one run with its sites."""

    def __init__(
        self,
        grid: Grid,
        events: EventLog,
        config: RunConfig,
        *,
        run_id: str,
        key: Ed25519PrivateKey,
        study: WholeStudy | None = None,
    ) -> None:
        """`study`: that of which the run is a cell. `key` signs the requests."""
        self._grid, self._nodes = grid, Nodes(grid)
        self._pulls = Pulls(grid, beside=config.engine == DEPLOYMENT)
        self._events, self._run_id = events, run_id
        self._key = key
        self._study = study.text if study else ""
        self._task, self._registered = task_json(config.task), config.federation.subjects
        self._transport = config.federation.transport
        self._deadline_s, self._wait_s = config.federation.deadline_s, config.federation.wait_s
        self._grace_s = config.federation.grace_s if config.engine == DEPLOYMENT else None
        # A request expires soon after the deadline, so that a site that comes back later does not work in vain. We stop
        # waiting before it expires, so that the events name a late site in our words and not in Flower's. A simulation
        # needs no lifetime: its sites answer while the request is sent.
        self._lifetime_s = self._deadline_s + 2 * GRACE_S if config.engine == DEPLOYMENT else None
        # Nor has it a deadline: on Ray, sites wait in one queue until there is room for them, however long that takes.
        self._patience_s = self._deadline_s + GRACE_S if config.engine == DEPLOYMENT else math.inf

    def request(self, action: str, *, round: int, weights: Weights, subjects: str = "") -> Request:
        """A request for any site; `ask` gives each site's copy its own nonce and signature.

        Raises:
            TransportError: a weight is too large for float16 transport.
        """
        packed = pack(weights, self._transport if action == TRAIN else "float32")  # what is scored is what is saved
        return Request(
            action=action,
            run_id=self._run_id,
            round=round,
            nonce="",
            task=self._task,
            subjects=subjects,
            deadline_s=math.ceil(self._deadline_s),
            weights=packed,
            study=self._study,
        )

    def wait_for(self, sites: Sequence[str], *, enough: int, round: int) -> dict[str, int]:
        """{site: node id} of those that are connected, as soon as `enough` are, at the latest after
        `federation.wait_s`. The events name the missing ones whenever they change."""
        deadline = time.monotonic() + self._wait_s
        told: list[str] = []
        while True:
            connected = _persisting(self._nodes.connected)
            there = {site: connected[site] for site in sites if site in connected}
            if len(there) >= enough or time.monotonic() > deadline:
                return there
            missing = sorted(set(sites) - set(there))
            if missing != told:
                self._events.append(Waiting(round=round, sites=missing, limit_s=self._wait_s))
                progress.report(Exchanging(round=round, action="connecting", waiting_for=missing))
                told = missing
            time.sleep(CONNECTION_POLL_S)

    def ask(
        self,
        nodes: Mapping[str, int],
        request: Request,
        *,
        of_site: Mapping[str, Packed] | None = None,
        enough: float = math.inf,
    ) -> Outcome:
        """Send the request to {site: node id}, and collect the answers until the deadline, in a simulation all. A site
        of `of_site` gets these weights in place of the request's. When `enough` have replied, the others have
        `federation.grace_s` more.

        The events name each site that fails or does not answer.

        Raises:
            RunError: the disk is full.
        """
        spool = Spool(self._events.path.parent)
        outcome, exchanging = Outcome(), partial(Exchanging, round=request.round, action=request.action)
        requests = {site: self._for_site(request, site, weights=(of_site or {}).get(site)) for site in nodes}
        progress.report(exchanging(waiting_for=sorted(nodes)))
        waiting = self._send(nodes, requests)
        self._note_missing(sorted(set(nodes) - set(waiting.values())), request, "the request could not be delivered")

        deadline, in_time = time.monotonic() + self._patience_s, f"within {self._deadline_s:.0f} s"
        while waiting:
            before, looked_s = len(waiting), time.monotonic()
            ids = [*waiting]
            self._look()
            for some in (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)):
                for message_id, answer in self._pull(some).items():
                    site = waiting.pop(message_id)
                    self._receive(answer, site, requests[site], outcome, spool)
            if self._grace_s is not None and len(outcome.replies) >= enough:
                deadline, enough = min(deadline, time.monotonic() + self._grace_s), math.inf
                in_time = f"within {self._grace_s:g} s after the quorum"
            if len(waiting) < before:
                left, answered = sorted(waiting.values()), sorted(outcome.replies)
                progress.report(exchanging(waiting_for=left, answered=answered, failed=[*outcome.failed]))
            elif time.monotonic() > deadline:
                break
            else:
                time.sleep(min(MOST_POLL_S, max(POLL_S, 2 * (time.monotonic() - looked_s))))
        self._pulls.forget()
        no_answer, silent = f"no answer to {request.action} {in_time}", sorted(waiting.values())
        self._note_missing(silent, request, no_answer)
        connected = _persisting(self._nodes.connected) if silent else {}
        outcome.late += [site for site in silent if site in connected]
        return outcome

    def note_absent(self, sites: Iterable[str], request: Request) -> None:
        """Note who could not be asked."""
        self._note_missing(sites, request, "not connected")

    def _for_site(self, request: Request, site: str, *, weights: Packed | None) -> Request:
        weights = request.weights if weights is None else weights
        return sign(dataclasses.replace(request, weights=weights, nonce=secrets.token_hex(16)), self._key, site=site)

    def _send(self, nodes: Mapping[str, int], requests: Mapping[str, Request]) -> dict[str, str]:
        """{message id: site} of the messages that were delivered to the SuperLink."""
        records, lifetime_s = array_records([requests[site].weights for site in nodes]), self._lifetime_s

        def push() -> list[str]:
            messages = [
                request_message(requests[site], arrays, node_id=nodes[site], lifetime_s=lifetime_s)
                for site, arrays in zip(nodes, records, strict=True)
            ]
            return [*self._grid.push_messages(messages)]

        ids = _persisting(push)
        return {message_id: site for message_id, site in zip(ids, nodes, strict=True) if message_id}

    def _look(self) -> None:
        with _a_fault_is_logged():
            self._pulls.look()

    def _pull(self, message_ids: Sequence[str]) -> dict[str, Message | ProtocolError]:
        """{message id: its answer, or why that cannot be read} of those that are there now."""
        answers: dict[str, Message | ProtocolError] = {}
        with _a_fault_is_logged():
            for message_id in message_ids:
                try:
                    answer = self._pulls.answer(message_id)
                except ProtocolError as error:
                    answers[message_id] = error
                else:
                    answers |= {message_id: answer} if answer else {}
        return answers

    def _receive(
        self, answer: Message | ProtocolError, site: str, request: Request, outcome: Outcome, spool: Spool
    ) -> None:
        """Put a site's answer where it belongs in `outcome`."""
        try:
            if isinstance(answer, ProtocolError):
                raise answer
            if answer.has_error():
                reason = error_in(answer)
                if answer.error.code == REFUSED and reason in SITS_OUT:
                    outcome.sitting_out[site] = reason
                else:
                    self._note_failed(site, request, reason, outcome)
                    outcome.late += [site] if reason == DeadlineError.public else []
                return
            reply = reply_in(answer)
            check_answer(reply, request, registered=self._registered.get(site))
            outcome.replies[site] = spool.keep(reply)
        except RunError:  # our own disk
            raise
        except MismatchError as error:  # a site of another release means no harm
            self._note_failed(site, request, str(error), outcome)
        except Exception as error:  # of hostile bytes, if it is no ProtocolError
            outcome.failed.append(site)
            reason = str(error) if isinstance(error, ProtocolError) else f"it cannot be read: {type(error).__name__}"
            outcome.malformed[site] = printable(reason, longest=LONGEST_REASON)

    def _note_failed(self, site: str, request: Request, reason: str, outcome: Outcome) -> None:
        outcome.failed.append(site)
        self._events.append(SiteFailed(site=site, round=request.round, action=request.action, reason=reason))

    def _note_missing(self, sites: Iterable[str], request: Request, reason: str) -> None:
        for site in sites:
            self._events.append(SiteMissing(site=site, round=request.round, action=request.action, reason=reason))


@contextmanager
def _a_fault_is_logged() -> Iterator[None]:
    """A fault from which the SuperLink may recover counts as no answer yet, and is logged. A busy SuperLink answers 500
    ("database is locked"), and Flower itself does not try again. A refusal (4xx: the run has ended) is raised."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.is_client_error:
            raise
        log.warning("the SuperLink answers %d; asking again", error.response.status_code)
    except httpx.TransportError as error:
        log.warning("the SuperLink does not answer (%s); asking again", error)


def _persisting(work: Callable[[], T]) -> T:
    """What the work gives; where the SuperLink fails it is done again, a few times. A site that gets a request twice
    has one nonce for both and gives one answer to both; the one that nobody waits for is thrown away. A refusal (4xx:
    the run has ended) is raised at once."""
    for pause_s in AGAIN_S:
        try:
            return work()
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
                raise
            log.warning("the SuperLink fails (%s); asking again", " ".join(str(error).split())[:100])
            time.sleep(pause_s)
    return work()
