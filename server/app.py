"""The Flower ServerApp: rounds of training, then the final test. `run_federation` reads top to bottom."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.errors import AgiError, RunError
from agi_core.metric_names import METRICS
from agi_core.protocol import ALL, EVALUATE, TEST, TRAIN, VALIDATION, Reply, Request
from agi_core.report.report import build_report
from agi_core.run import checkpoint, progress, run_folder
from agi_core.run.initial_weights import initial_weights
from agi_core.run.run_folder import EventLog
from server import run_state, status, strikes
from server.aggregation import SiteUpdate
from server.evaluation import (
    VALIDATION_METRICS,
    Answered,
    held_back,
    over_subjects,
    site_rows,
    validation_rows,
    worse_at,
)
from server.exchange import Answers, Exchange
from server.run_state import RunState
from server.server_step import next_weights
from server.update_gate import Verdict, judge_figures, judge_updates

T = TypeVar("T")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the run whose folder the run configuration names. A deployed run also ends with its summary
    and report; a simulation writes its own, which need the scans."""
    run_dir = Path(str(context.run_config["run-dir"]))
    strikes_path = Path(str(context.run_config.get("strikes-path") or run_dir / strikes.FILE))
    config = run_folder.open_existing(run_dir)
    if config.engine != DEPLOYMENT:
        run_federation(grid, run_dir, strikes_path)
        return
    with run_state.holding(run_dir), progress.listening(partial(status.follow, run_dir)):
        try:
            run_federation(grid, run_dir, strikes_path)
            wall_s = run_folder.read_events(run_dir)[-1]["t_s"]
            run_folder.summarise(run_dir, config, wall_s=wall_s, baselines={}, more={})
        except AgiError:
            with contextlib.suppress(AgiError):  # the disk may be full
                build_report(run_dir)
            raise
        build_report(run_dir)


def run_federation(grid: Grid, run_dir: Path, strikes_path: Path) -> None:
    """All remaining rounds of the run in `run_dir`, then the final test. Killed at any moment, the next call goes on
    from the last checkpoint. `strikes_path`: see `server.strikes`.

    Raises:
        RunError: fewer sites than the quorum connected or answered, or the state cannot be saved; what was finished is.
    """
    config = run_folder.open_existing(run_dir)
    training, unseen = config.federation.sites, config.federation.unseen_sites
    saved = run_state.load(run_dir)
    state, events = saved or _new_run(run_dir, config)
    if saved and config.engine == DEPLOYMENT:
        events.append("resumed", round=state.round)
    exchange = Exchange(grid, events, config, run_id=state.run_id)
    ask = partial(_answers, exchange, config=config, state=state, events=events, strikes_path=strikes_path)

    with _pausing(run_dir, config, state, events):
        first = state.round + 1
        for round in range(first, config.rounds + 1):
            # TRAINING: one exchange. The replies also hold the validation of the weights that were sent.
            events.append("round_started", round=round)
            request = exchange.request(TRAIN, round=round, weights=state.weights)
            asked = training if round == first else [site for site in training if site not in state.sitting_out]
            updates = ask(
                asked,
                request,
                partial(judge_updates, config=config),
                quorum=config.federation.quorum,
                wait_for_all=round == first,  # a site that is late joins at the next round
            )

            # AGGREGATION, or back to the best model
            if _validated(events, updates, state, config, round=round - 1):
                state.weights, state.velocity = next_weights(
                    state.weights, [*updates.values()], velocity=state.velocity, config=config.federation
                )
            else:
                state.weights, state.velocity = checkpoint.load_weights(run_dir, best=True), {}
            state.round = round
            losses, seconds = (_by_site(name, updates) for name in ("train_loss", "seconds"))
            state.history.append({"round": round, "sites": [*updates], "train_loss": losses})
            events.append("round_finished", round=round, sites=[*updates], train_loss=losses, seconds=seconds)
            run_state.save(run_dir, state, events)

        # FINAL TEST of the last model: training sites on their test subjects, unseen sites on all of theirs
        if not state.tested:
            recent = [*state.history[-1]["sites"], *unseen]  # a site that is long gone is not waited for
            exchange.wait_for(recent, enough=len(recent), round=state.round)
            evaluate = partial(exchange.request, EVALUATE, round=state.round)
            replies = ask(training, evaluate(weights=state.weights, subjects=VALIDATION), judge_figures, quorum=1)
            if not _validated(events, replies, state, config, round=state.round):
                state.weights = checkpoint.load_weights(run_dir, best=True)
            test, all_subjects = (evaluate(weights=state.weights, subjects=subjects) for subjects in (TEST, ALL))
            seen, others = (  # who hung a moment ago is not waited for again
                ask(sites, request, judge_figures, quorum=quorum)
                for sites, request, quorum in (([*replies], test, 1), (unseen, all_subjects, 0))
            )
            tested, tested_unseen = site_rows(seen), site_rows(others)
            events.append(
                "tested",
                final=over_subjects(tested),
                sites=tested,
                unseen_sites=tested_unseen,
                suppressed=held_back({**seen, **others}, METRICS),
                best=state.best,
            )
            state.tested = True
            run_state.save(run_dir, state, events)


def _answers(
    exchange: Exchange,
    sites: Sequence[str],
    request: Request,
    judge: Callable[[Mapping[str, Reply], Request], Verdict[T]],
    *,
    quorum: int | None,
    wait_for_all: bool = False,
    config: RunConfig,
    state: RunState,
    events: EventLog,
    strikes_path: Path,
) -> dict[str, T]:
    """{site: what is used of its reply} in the order of names, of at least `quorum` sites; None: of all that do not
    sit out by right, and of one at least. Sites in quarantine are not asked.

    Waits, within its limit, for so many to connect, or for all. While fewer have answered, the others are asked again,
    `federation.retries` times; a site whose reply is refused, or that sits out, is not.

    Raises:
        RunError: still fewer.
    """
    retries = config.federation.retries if config.engine == DEPLOYMENT else 0  # a simulated site would fail again
    shut_out = [site for site in strikes.quarantined(strikes_path) if site in sites]
    asking = [site for site in sites if site not in shut_out]
    replies: dict[str, Reply] = {}
    refused: dict[str, str] = {}
    verdict: Verdict[T] = Verdict({})

    def needed() -> int:
        return max(1, sum(site not in state.sitting_out for site in sites)) if quorum is None else quorum

    for attempt in range(1 + retries):
        if len(verdict.accepted) + len(asking) < needed():
            break
        if attempt:
            events.append("retried", round=request.round, action=request.action, answered=sorted(verdict.accepted))
        expected = [site for site in asking if site not in state.sitting_out]
        enough = len(expected) if wait_for_all and not attempt else needed() - len(verdict.accepted)
        nodes = exchange.wait_for(expected, enough=enough, round=request.round)
        exchange.note_absent([site for site in expected if site not in nodes], request)
        nodes |= exchange.wait_for([site for site in asking if site not in expected], enough=0, round=request.round)
        if len(verdict.accepted) + len(nodes) < needed():
            break
        answers = exchange.ask(nodes, request)
        replies |= answers.replies
        refused |= answers.malformed
        _note_sitting_out(answers, state, request, events)
        verdict = judge(replies, request)
        if len(verdict.accepted) >= needed():
            break
        asking = [site for site in asking if site not in {*replies, *refused, *answers.sitting_out}]

    refused |= verdict.refused
    for site, reason in verdict.clipped.items():
        events.append("update_clipped", site=site, round=request.round, reason=reason)
    for site, reason in sorted(refused.items()):
        count = strikes.strike(strikes_path, site, run=events.path.parent.name, round=request.round, reason=reason)
        events.append("update_refused", site=site, round=request.round, reason=reason, strikes=count)
        if count == strikes.QUARANTINED_AT:
            events.append("site_quarantined", site=site, round=request.round)
    if len(verdict.accepted) >= needed():
        return dict(sorted(verdict.accepted.items()))
    raise RunError(
        f"round {request.round}: {len(verdict.accepted)} of {len(sites)} sites gave a usable answer to"
        f" {request.action}, {needed()} are needed" + _who_is_out(shut_out, refused, state, config)
    )


def _note_sitting_out(answers: Answers, state: RunState, request: Request, events: EventLog) -> None:
    """A site that sits out of training is not expected any more; whoever answers, is."""
    for site, reason in sorted(answers.sitting_out.items()):
        if state.sitting_out.get(site) != reason:
            events.append("site_sat_out", site=site, round=request.round, action=request.action, reason=reason)
    if request.action == TRAIN:
        state.sitting_out |= answers.sitting_out
        for site in answers.replies:
            state.sitting_out.pop(site, None)


def _who_is_out(shut_out: Sequence[str], refused: Mapping[str, str], state: RunState, config: RunConfig) -> str:
    """Why sites are missing that connected or might have, and what can be done."""
    deployed = config.engine == DEPLOYMENT
    lines = [f"{site} sits out: {reason}" for site, reason in sorted(state.sitting_out.items())]
    lines += [f"{site} was refused: {reason}" for site, reason in sorted(refused.items())]
    for site in shut_out:
        release = f"python -m server release {site}" if deployed else f"delete {strikes.FILE} in the run folder"
        lines.append(f"{site} is in quarantine after {strikes.QUARANTINED_AT} refused replies; to let it in: {release}")
    if (shut_out or refused) and deployed:
        lines.append("to go on without it, resume with a lower --quorum")
    return "".join(f"; {line}" for line in lines)


@contextlib.contextmanager
def _pausing(run_dir: Path, config: RunConfig, state: RunState, events: EventLog) -> Iterator[None]:
    """When the run cannot go on: note why, keep the events that led to it, and say how to continue."""
    try:
        yield
    except (AgiError, httpx.HTTPError) as error:
        if isinstance(error, httpx.HTTPError):
            error = RunError(f"the SuperLink failed ({' '.join(str(error).split())[:100]}); see superlink.log")
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


def _validated(events: EventLog, answers: Answered, state: RunState, config: RunConfig, *, round: int) -> bool:
    """Note the validation of the model after `round` that travelled in these answers; False when the model must go,
    because a majority of sites report it much worse than the best one. Private figures are noisy: they judge nothing.
    """
    rows = validation_rows(answers)
    mean = over_subjects(rows)
    events.append("validated", round=round, mean=mean, sites=rows, suppressed=held_back(answers, VALIDATION_METRICS))
    if state.best and not config.privacy.on and (worse := worse_at(rows, state.best["sites"])):
        events.append("rolled_back", round=round, to=state.best["round"], sites=worse)
        return False
    psnrs = {site: row["psnr_db"] for site, row in rows.items()}
    state.consider_best(round=round, psnr_db=mean.get("psnr_db"), sites=psnrs)
    return True
