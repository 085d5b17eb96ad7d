"""The Flower ServerApp: rounds of training, then the final test. `run_federation` reads top to bottom."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from agi_core import progress, run_folder
from agi_core.config import DEPLOYMENT, RunConfig
from agi_core.errors import AgiError, ProtocolError, RunError
from agi_core.initial_weights import initial_weights
from agi_core.protocol import ALL, EVALUATE, TEST, TRAIN, VALIDATION, Reply, Request
from agi_core.report.report import build_report
from agi_core.run_folder import EventLog
from server import run_state, status
from server.evaluation import over_subjects, site_rows, validation_row
from server.exchange import Exchange
from server.run_state import RunState
from server.strategy import SiteUpdate, next_weights
from server.update_gate import admit

T = TypeVar("T")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the run whose folder the run configuration names. A deployed run also ends with its summary
    and report; a simulation writes its own, which need the scans."""
    run_dir = Path(str(context.run_config["run-dir"]))
    config = run_folder.open_existing(run_dir)
    if config.engine != DEPLOYMENT:
        run_federation(grid, run_dir)
        return
    with run_state.holding(run_dir), progress.listening(partial(status.follow, run_dir)):
        try:
            run_federation(grid, run_dir)
            wall_s = run_folder.read_events(run_dir)[-1]["t_s"]
            run_folder.summarise(run_dir, config, wall_s=wall_s, baselines={}, more={})
        except AgiError:
            with contextlib.suppress(AgiError):  # the disk may be full
                build_report(run_dir)
            raise
        build_report(run_dir)


def run_federation(grid: Grid, run_dir: Path) -> None:
    """All remaining rounds of the run in `run_dir`, then the final test. Killed at any moment, the next call goes on
    from the last checkpoint.

    Raises:
        RunError: fewer sites than the quorum connected or answered, or the state cannot be saved; what was finished is.
    """
    config = run_folder.open_existing(run_dir)
    training, unseen = config.federation.sites, config.federation.unseen_sites
    quorum = config.federation.quorum or len(training)
    state, events = run_state.load(run_dir) or _new_run(run_dir, config)
    exchange = Exchange(grid, events, config, run_id=state.run_id)

    with _pausing(run_dir, config, state, events):
        first = state.round + 1
        for round in range(first, config.rounds + 1):
            # TRAINING: one exchange. The replies also hold the validation of the weights that were sent.
            events.append("round_started", round=round)
            request = exchange.request(TRAIN, round=round, weights=state.weights)
            wanted = len(training) if round == first else quorum  # a site that is late joins at the next round
            updates = _answers(
                exchange, training, request, admit, wanted=wanted, needed=quorum, config=config, events=events
            )

            # AGGREGATION
            _validated(events, {site: update.metrics for site, update in updates.items()}, state, round=round - 1)
            state.weights, state.velocity = next_weights(
                state.weights, [*updates.values()], velocity=state.velocity, config=config.federation
            )
            state.round = round
            losses, seconds = (_by_site(name, updates) for name in ("train_loss", "seconds"))
            state.history.append({"round": round, "sites": [*updates], "train_loss": losses})
            events.append("round_finished", round=round, train_loss=losses, seconds=seconds)
            run_state.save(run_dir, state, events)

        # FINAL TEST of the last model: training sites on their test subjects, unseen sites on all of theirs
        if not state.tested:
            recent = [*state.history[-1]["sites"], *unseen]  # a site that is long gone is not waited for
            exchange.wait_for(recent, enough=len(recent), round=state.round)
            validation, test, all_subjects = (
                exchange.request(EVALUATE, round=state.round, weights=state.weights, subjects=subjects)
                for subjects in (VALIDATION, TEST, ALL)
            )
            ask = partial(_answers, exchange, accept=_as_it_is, config=config, events=events)
            replies = ask(training, validation, wanted=1, needed=1)
            _validated(events, {site: reply.metrics for site, reply in replies.items()}, state, round=state.round)
            tested = site_rows(ask(training, test, wanted=1, needed=1))
            tested_unseen = site_rows(ask(unseen, all_subjects, wanted=0, needed=0))
            final = over_subjects(tested)
            events.append("tested", final=final, sites=tested, unseen_sites=tested_unseen, best=state.best)
            state.tested = True
            run_state.save(run_dir, state, events)


def _answers(
    exchange: Exchange,
    sites: Sequence[str],
    request: Request,
    accept: Callable[[Reply, Request, str], T],
    *,
    wanted: int,
    needed: int,
    config: RunConfig,
    events: EventLog,
) -> dict[str, T]:
    """{site: accepted reply} in the order of names, of at least `needed` sites.

    Waits, within its limit, for `wanted` sites to connect. While fewer than `needed` have answered, the others are
    asked again, `federation.retries` times.

    Raises:
        RunError: still fewer than `needed`.
    """
    retries = config.federation.retries if config.engine == DEPLOYMENT else 0  # a simulated site would fail again
    accepted: dict[str, T] = {}
    for attempt in range(1 + retries):
        if attempt:
            events.append("retried", round=request.round, action=request.action, answered=sorted(accepted))
        remaining = [site for site in sites if site not in accepted]
        enough = needed - len(accepted) if attempt else wanted
        nodes = exchange.wait_for(remaining, enough=enough, round=request.round)
        exchange.note_absent([site for site in remaining if site not in nodes], request)
        if len(accepted) + len(nodes) < needed:
            break
        for site, reply in exchange.ask(nodes, request).items():
            try:
                accepted[site] = accept(reply, request, site)
            except ProtocolError as error:
                events.append("update_refused", site=site, round=request.round, reason=str(error))
        if len(accepted) >= needed:
            return dict(sorted(accepted.items()))
    raise RunError(
        f"round {request.round}: {len(accepted)} of {len(sites)} sites gave a usable answer to {request.action},"
        f" {needed} are needed"
    )


def _as_it_is(reply: Reply, request: Request, site: str) -> Reply:
    return reply


@contextlib.contextmanager
def _pausing(run_dir: Path, config: RunConfig, state: RunState, events: EventLog) -> Iterator[None]:
    """When the run cannot go on: note why, keep the events that led to it, and say how to continue."""
    try:
        yield
    except AgiError as error:
        with contextlib.suppress(AgiError):  # the disk may be full
            events.append("paused", round=state.round, reason=str(error))
            run_state.keep_events(run_dir, events)
        command = f"python -m server resume {run_dir.name}" if config.engine == DEPLOYMENT else "--resume"
        raise RunError(
            f"{error}; the last finished round is saved: solve what is named above and continue with {command}"
        ) from None


def _new_run(run_dir: Path, config: RunConfig) -> tuple[RunState, EventLog]:
    state = RunState(weights=initial_weights(config))
    events = EventLog(run_dir)
    events.append(
        "run_started", run_id=state.run_id, sites=config.federation.sites, unseen_sites=config.federation.unseen_sites
    )
    run_state.save(run_dir, state, events)
    return state, events


def _by_site(metric: str, updates: Mapping[str, SiteUpdate]) -> dict[str, float]:
    """The metric of each of the sites that sent it; those that train privately do not."""
    return {site: update.metrics[metric] for site, update in updates.items() if metric in update.metrics}


def _validated(events: EventLog, metrics: Mapping[str, Mapping[str, float]], state: RunState, *, round: int) -> None:
    """Note the validation of the model after `round` that travelled in these replies."""
    rows = {site: row for site, values in sorted(metrics.items()) if (row := validation_row(values))}
    mean = over_subjects(rows)
    events.append("validated", round=round, mean=mean, sites=rows)
    state.consider_best(round=round, psnr_db=mean.get("psnr_db"))
