"""Collecting the answers to one request: which sites are asked, again and again, until enough have answered usably."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from agi_core.cells import name_of
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.errors import RunError
from agi_core.host.console import printable
from agi_core.protocol import TRAIN, Packed, Reply, Request
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import Retried, SiteQuarantined, SiteSatOut, UpdateClipped, UpdateRefused
from server import strikes
from server.exchange import Exchange, Outcome
from server.messages import LONGEST_REASON
from server.run_state import RunState
from server.update_gate import Verdict

PATIENCE = 3
"""So many times in a row may a connected site be late. Then it is left alone for a round, and after each time that
follows for twice as long as before."""

T = TypeVar("T")
Judge = Callable[[Mapping[str, Reply], Request], Verdict[T]]


class Collector:
    """Asks the sites of one run. It remembers in the run's state who sits out, and in the strikes who is refused. It
    remembers for itself who is late: a run that is resumed asks everybody."""

    def __init__(
        self, exchange: Exchange, *, config: RunConfig, state: RunState, events: EventLog, strikes_path: Path
    ) -> None:
        self._exchange, self._state, self._events, self._strikes_path = exchange, state, events, strikes_path
        self._late: dict[str, int] = {}  # how often, in a row
        self._next_round: dict[str, int] = {}  # in which a site is asked again that was late too often
        self._deployed = config.engine == DEPLOYMENT
        self._retries = config.federation.retries if self._deployed else 0  # a simulated site would fail again

    @property
    def late(self) -> Collection[str]:
        """The sites that have not answered the newest request that they got."""
        return self._late.keys()

    def collect(
        self,
        sites: Sequence[str],
        request: Request,
        judge: Judge[T],
        *,
        quorum: int | None,
        wait_for_all: bool = False,
        of_site: Mapping[str, Packed] | None = None,
    ) -> dict[str, T]:
        """{site: what `judge` accepts of its reply}, in the order of names. `of_site`: see `Exchange.ask`.

        At least `quorum` sites must give a usable reply; None: all that do not sit out, and at least one. Sites in
        quarantine are not asked, nor are those that were late too often, while the others could be enough. Waits,
        within the limit of `Exchange.wait_for`, until so many are connected, or all.
        While fewer have answered, the others are asked again, `federation.retries` times; a site whose reply is
        refused, or that sits out, is not.

        Raises:
            RunError: fewer usable replies.
        """
        shut_out = [site for site in strikes.quarantined(self._strikes_path) if site in sites]
        self._note_shut_out(shut_out, round=request.round)
        asking = [site for site in sites if site not in shut_out]
        replies: dict[str, Reply] = {}
        refused: dict[str, str] = {}
        verdict: Verdict[T] = Verdict({})

        def needed() -> int:  # fewer, as soon as a site says that it sits out
            return max(1, len(self._state.expected(sites))) if quorum is None else quorum

        def lacking() -> int:
            return needed() - len(verdict.accepted)

        resting = [site for site in asking if request.round < self._next_round.get(site, 0)]
        if len(asking) - len(resting) < needed():
            resting = []
        asking = [site for site in asking if site not in resting]
        for attempt in range(1 + self._retries):
            if len(asking) < lacking():
                break
            if attempt:
                answered = sorted(verdict.accepted)
                self._events.append(Retried(round=request.round, action=request.action, answered=answered))
            nodes = self._connected(asking, request, enough=None if wait_for_all and not attempt else lacking())
            if len(nodes) < lacking():
                break
            enough = math.inf if request.action != TRAIN or quorum is None else lacking()
            outcome = self._exchange.ask(nodes, request, of_site=of_site, enough=enough)
            self._note_sitting_out(outcome, request)
            self._note_late(outcome, request)
            replies |= outcome.replies
            refused |= outcome.malformed
            verdict = judge(replies, request)
            if lacking() <= 0:
                break
            asking = [site for site in (*asking, *resting) if not outcome.settles(site)]
            resting = []

        # a verdict may quote what the site wrote
        refused |= {site: printable(why, longest=LONGEST_REASON) for site, why in verdict.refused.items()}
        self._note_refusals(verdict.clipped, refused, request)
        if lacking() > 0:
            raise RunError(
                f"round {request.round}: {len(verdict.accepted)} of {len(sites)} sites gave a usable answer to"
                f" {request.action}, {needed()} are needed" + self._why_too_few(shut_out, refused)
            )
        return dict(sorted(verdict.accepted.items()))

    def _connected(self, sites: Sequence[str], request: Request, *, enough: int | None) -> dict[str, int]:
        """{site: node id} of those that are connected. Waits until `enough` (None: all) of those that do not sit out
        are. A site that sits out is not waited for, but it is asked if it is connected."""
        expected = self._state.expected(sites)
        waited_for = len(expected) if enough is None else enough
        nodes = self._exchange.wait_for(expected, enough=waited_for, round=request.round)
        self._exchange.note_absent([site for site in expected if site not in nodes], request)
        others = [site for site in sites if site not in expected]
        return nodes | self._exchange.wait_for(others, enough=0, round=request.round)

    def _note_sitting_out(self, outcome: Outcome, request: Request) -> None:
        """A site that sits out of training is not waited for; when it answers again, it takes part again."""
        for site, reason in sorted(outcome.sitting_out.items()):
            if self._state.sitting_out.get(site) != reason:
                self._events.append(SiteSatOut(site=site, round=request.round, action=request.action, reason=reason))
        if request.action == TRAIN:
            self._state.sitting_out |= outcome.sitting_out
            for site in outcome.replies:
                self._state.sitting_out.pop(site, None)

    def _note_late(self, outcome: Outcome, request: Request) -> None:
        """A site that is late again and again is left alone for a while, and takes part again when it answers."""
        for site in outcome.replies:
            self._late.pop(site, None)
            self._next_round.pop(site, None)
        for site in outcome.late:
            times = self._late[site] = self._late.get(site, 0) + 1
            if times < PATIENCE:
                continue
            again = self._next_round[site] = request.round + 1 + 2 ** (times - PATIENCE)
            reason = f"it was late {times} times in a row; it is asked again in round {again}"
            self._events.append(SiteSatOut(site=site, round=request.round, action=request.action, reason=reason))

    def _note_refusals(self, clipped: Mapping[str, str], refused: Mapping[str, str], request: Request) -> None:
        """Note what was cut down, and what was refused. A refusal is a strike, and strikes end in quarantine."""
        round, run = request.round, name_of(self._events.path.parent)
        for site, reason in clipped.items():
            self._events.append(UpdateClipped(site=site, round=round, reason=reason))
        for site, reason in sorted(refused.items()):
            count = strikes.strike(self._strikes_path, site, run=run, round=round, reason=reason)
            self._events.append(UpdateRefused(site=site, round=round, reason=reason, strikes=count))
            if count == strikes.QUARANTINED_AT:
                self._note_quarantine(site, round=round)

    def _note_shut_out(self, sites: Sequence[str], *, round: int) -> None:
        """Of each site once in a run's events: quarantine outlives runs, so a site may be in it from the beginning."""
        for site in sites:
            self._note_quarantine(site, round=round)

    def _note_quarantine(self, site: str, *, round: int) -> None:
        if site not in self._quarantined:
            self._events.append(SiteQuarantined(site=site, round=round))
            self._quarantined.add(site)

    @cached_property
    def _quarantined(self) -> set[str]:
        """Those of whom the run's events say so. They are read once: a long run has many."""
        folder = self._events.path.parent
        return {event.site for event in events_of(folder, SiteQuarantined)} if self._events.size_bytes else set()

    def _why_too_few(self, shut_out: Sequence[str], refused: Mapping[str, str]) -> str:
        """Which sites are missing for another reason than the network, why, and what can be done."""
        lines = [f"{site} sits out: {reason}" for site, reason in sorted(self._state.sitting_out.items())]
        lines += [f"{site} was refused: {reason}" for site, reason in sorted(refused.items())]
        for site in shut_out:
            count, by_hand = strikes.QUARANTINED_AT, f"delete {strikes.FILE} in the run folder"
            release = f"python -m server release {site}" if self._deployed else by_hand
            lines.append(f"{site} is in quarantine after {count} refused replies; to let it in: {release}")
        if (shut_out or refused) and self._deployed:
            lines.append("to go on without it, resume with a lower --quorum")
        return "".join(f"; {line}" for line in lines)
