"""Requests to named sites and their checked replies, over any Flower grid.

Flower's own `send_and_receive` looks for replies every 3 s, and does not say who is late. An `Exchange` looks every
`POLL_S`, and names in the events each site that does not answer.
"""

import contextlib
import dataclasses
import logging
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from agi_core.config.load import task_json
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.errors import BudgetError, MismatchError, PolicyError, PrivacyError, ProtocolError
from agi_core.protocol import (
    ARRAYS,
    METRICS,
    REFUSED,
    SCALARS,
    TRAIN,
    Reply,
    Request,
    Weights,
    pack,
    read_reply,
    request_scalars,
)
from agi_core.run import progress
from agi_core.run.event_log import EventLog
from agi_core.run.events import Exchanging, SiteFailed, SiteMissing, Waiting
from server.nodes import Nodes
from server.update_gate import check_answer

log = logging.getLogger("server")
POLL_S = 0.2
GRACE_S = 10.0  # after the deadline: for transport, and for a site to say itself that it ran out of time
SITS_OUT = frozenset(error.public for error in (BudgetError, PolicyError, PrivacyError))
"""A site that refuses with one of these sentences sits out by right: nothing is broken there, and asking again does not
help."""
_LOST = {  # Flower's own words are for its developers
    ErrorCode.MESSAGE_UNAVAILABLE: "no answer in time",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its answer was lost on the way",
    ErrorCode.NODE_UNAVAILABLE: "its connection was lost for a minute: its node or its network failed",
    ErrorCode.CLIENT_APP_CRASHED: "its runner was lost for a minute",
}


@dataclass
class Outcome:
    """What came back from one exchange, by site: replies to the request; why an answer is no reply; why a site sits out
    by right. `failed` names the sites that gave another error, or whose answer is no reply."""

    replies: dict[str, Reply] = field(default_factory=dict)
    malformed: dict[str, str] = field(default_factory=dict)
    sitting_out: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def settles(self, site: str) -> bool:
        """Whether asking the site again is of no use: it has replied, or was refused, or sits out."""
        return site in self.replies or site in self.malformed or site in self.sitting_out


class Exchange:
    """The conversation of one run with its sites."""

    def __init__(self, grid: Grid, events: EventLog, config: RunConfig, *, run_id: str) -> None:
        self._grid, self._nodes, self._events, self._run_id = grid, Nodes(grid), events, run_id
        self._task, self._registered = task_json(config.task), config.federation.subjects
        self._transport = config.federation.transport
        self._deadline_s, self._wait_s = config.federation.deadline_s, config.federation.wait_s
        # A request dies soon after the deadline, so that a site that comes back late does not work in vain. It outlives
        # our own waiting, so that the events name a late site in our words and not in Flower's. In a simulation, sites
        # answer while the request is sent: there is nothing to wait for.
        self._lifetime_s = self._deadline_s + 2 * GRACE_S if config.engine == DEPLOYMENT else None

    def request(self, action: str, *, round: int, weights: Weights, subjects: str = "") -> Request:
        """A request for any site; `ask` gives each site's copy its own nonce.

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
        )

    def wait_for(self, sites: Sequence[str], *, enough: int, round: int) -> dict[str, int]:
        """{site: node id} of those that are connected, as soon as `enough` are, at the latest after
        `federation.wait_s`."""

        def on_wait(missing: list[str]) -> None:
            self._events.append(Waiting(round=round, sites=missing, limit_s=self._wait_s))
            progress.report(Exchanging(round=round, action="connecting", waiting_for=missing))

        return self._nodes.wait_for(sites, enough=enough, limit_s=self._wait_s, on_wait=on_wait)

    def ask(self, nodes: Mapping[str, int], request: Request) -> Outcome:
        """Send the request to {site: node id}, and collect the answers until the deadline.

        The events name each site that fails or does not answer.
        """
        requests = {site: dataclasses.replace(request, nonce=secrets.token_hex(16)) for site in nodes}
        outcome = Outcome()
        progress.report(Exchanging(round=request.round, action=request.action, waiting_for=sorted(nodes)))
        waiting = self._send(nodes, requests)
        for site in sorted(set(nodes) - set(waiting.values())):
            self._note(SiteMissing, site, request, "the request could not be delivered")

        deadline = time.monotonic() + self._deadline_s + GRACE_S
        while waiting:
            for message in self._pull(list(waiting), until=deadline):
                if site := waiting.pop(message.metadata.reply_to_message_id, ""):  # else a second answer to one request
                    self._receive(message, site, requests[site], outcome)
            progress.report(
                Exchanging(
                    round=request.round,
                    action=request.action,
                    waiting_for=sorted(waiting.values()),
                    answered=sorted(outcome.replies),
                    failed=[*outcome.failed],
                )
            )
            if time.monotonic() > deadline:
                break
        for site in sorted(waiting.values()):
            self._note(SiteMissing, site, request, f"no answer to {request.action} within {self._deadline_s:.0f} s")
        return outcome

    def note_absent(self, sites: Sequence[str], request: Request) -> None:
        """Note who could not be asked."""
        for site in sites:
            self._note(SiteMissing, site, request, "not connected")

    def _send(self, nodes: Mapping[str, int], requests: Mapping[str, Request]) -> dict[str, str]:
        """{message id: site}; all messages share one record of arrays, which Flower sends to the SuperLink once."""
        if not nodes:
            return {}
        packed = next(iter(requests.values())).weights
        arrays = ArrayRecord({dtype: Array(flat) for dtype, flat in packed.arrays.items()})
        messages = [
            Message(
                RecordDict({ARRAYS: arrays, SCALARS: ConfigRecord(dict(request_scalars(requests[site])))}),
                node_id,
                requests[site].action,
                ttl=self._lifetime_s,
                group_id=str(requests[site].round),
            )
            for site, node_id in nodes.items()
        ]
        ids = self._grid.push_messages(messages)
        return {message_id: site for message_id, site in zip(ids, nodes, strict=True) if message_id}

    def _pull(self, message_ids: Sequence[str], *, until: float) -> list[Message]:
        """The replies that are there; looks at least once, and again until there is one or the time is up."""
        while True:
            messages: list[Message] = []
            with _passing_faults():
                messages += self._grid.pull_messages(message_ids)
            if messages or time.monotonic() > until:
                return messages
            time.sleep(POLL_S)

    def _receive(self, message: Message, site: str, request: Request, outcome: Outcome) -> None:
        """Put a site's answer where it belongs in `outcome`."""
        if message.has_error():
            reason = _LOST.get(message.error.code) or _printable(message.error.reason or "no reason given")
            if message.error.code == REFUSED and reason in SITS_OUT:
                outcome.sitting_out[site] = reason
                return
            outcome.failed.append(site)
            self._note(SiteFailed, site, request, reason)
            return
        try:
            reply = _read(message)
            check_answer(reply, request, registered=self._registered.get(site))
            outcome.replies[site] = reply
        except MismatchError as error:  # a site of another release means no harm
            outcome.failed.append(site)
            self._note(SiteFailed, site, request, str(error))
        except ProtocolError as error:
            outcome.failed.append(site)
            outcome.malformed[site] = _printable(str(error))

    def _note(self, kind: type[SiteFailed] | type[SiteMissing], site: str, request: Request, reason: str) -> None:
        self._events.append(kind(site=site, round=request.round, action=request.action, reason=reason))


def _printable(text: str) -> str:
    """A site's words on one line, short, and without a terminal's escape codes."""
    return "".join(character for character in " ".join(text.split())[:200] if character.isprintable())


@contextlib.contextmanager
def _passing_faults() -> Iterator[None]:
    """Log and ignore a fault from which the SuperLink may recover. A busy SuperLink answers 500 ("database is locked"),
    and Flower itself does not try again. A refusal (4xx, after the end of the run) is raised."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.is_client_error:
            raise
        log.warning("the SuperLink answers %d; asking again", error.response.status_code)
    except httpx.TransportError as error:
        log.warning("the SuperLink does not answer (%s); asking again", error)


def _read(message: Message) -> Reply:
    """The reply in a message.

    Raises:
        ProtocolError: it does not follow the contract. Whatever Flower and NumPy raise on hostile bytes becomes one.
    """
    content = message.content
    try:
        arrays = {dtype: array.numpy() for dtype, array in content.array_records.get(ARRAYS, {}).items()}
        return read_reply(
            dict(content.config_records.get(SCALARS, {})),
            metrics=dict(content.metric_records.get(METRICS, {})),
            arrays=arrays,
        )
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"the reply cannot be read: {type(error).__name__}") from None
