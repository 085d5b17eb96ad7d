"""The Flower ServerApp: rounds of training, then the final test. `run_federation` reads top to bottom."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from agi_core import run_folder
from agi_core.config import RunConfig, Task, task_json, task_of
from agi_core.errors import AgiError, ProtocolError, RunError
from agi_core.models.agi_net import build_model
from agi_core.protocol import (
    ALL,
    ARRAYS,
    EVALUATE,
    METRICS,
    SCALARS,
    TEST,
    TRAIN,
    VALIDATION,
    Reply,
    Request,
    Weights,
    pack,
    read_reply,
    request_scalars,
)
from agi_core.run_folder import EventLog
from agi_core.scenario import parse_scenario
from server import run_state
from server.evaluation import over_subjects, site_rows, validation_row
from server.run_state import RunState
from server.sites import wait_for_sites
from server.strategy import SiteUpdate, next_weights
from server.update_gate import admit, check_answer

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the run whose folder the run configuration names."""
    run_federation(grid, Path(str(context.run_config["run-dir"])))


def run_federation(grid: Grid, run_dir: Path) -> None:
    """All remaining rounds of the run in `run_dir`, then the final test. Killed at any moment, the next call goes on
    from the last checkpoint.

    Raises:
        RunError: a site is missing, or fewer sites than the quorum answered a round; the state is saved.
    """
    config = run_folder.open_existing(run_dir)
    training, unseen = config.federation.sites, config.federation.unseen_sites
    state, events = run_state.load(run_dir) or _new_run(run_dir, config)
    nodes = wait_for_sites(grid, [*training, *unseen], deadline_s=config.federation.deadline_s)
    exchange = Exchange(grid, nodes, events, config, run_id=state.run_id)

    for round in range(state.round + 1, config.rounds + 1):
        # TRAINING: one exchange. The replies also hold the validation of the weights that were sent.
        events.append("round_started", round=round)
        request = exchange.request(TRAIN, round=round, weights=state.weights)
        replies = exchange.ask(training, request)
        updates = _admitted(replies, request, events)
        if len(updates) < (config.federation.quorum or len(training)):
            raise RunError(
                f"round {round}: {len(updates)} of {len(training)} sites gave a usable answer, below the quorum;"
                f" the state after round {state.round} is saved: solve what is named above and continue with --resume"
            )

        # AGGREGATION
        answered = {update.site for update in updates}
        _validated(events, {site: replies[site] for site in answered}, state, round=round - 1)
        state.weights, state.velocity = next_weights(
            state.weights, updates, velocity=state.velocity, config=config.federation
        )
        state.round = round
        losses, seconds = (_by_site(name, replies, answered) for name in ("train_loss", "seconds"))
        state.history.append({"round": round, "train_loss": losses})
        events.append("round_finished", round=round, train_loss=losses, seconds=seconds)
        run_state.save(run_dir, state, events)

    # FINAL TEST of the last model: training sites on their test subjects, unseen sites on all of theirs
    if not state.tested:
        validation, test, all_subjects = (
            exchange.request(EVALUATE, round=state.round, weights=state.weights, subjects=subjects)
            for subjects in (VALIDATION, TEST, ALL)
        )
        _validated(events, exchange.ask(training, validation), state, round=state.round)
        tested, tested_unseen = site_rows(exchange.ask(training, test)), site_rows(exchange.ask(unseen, all_subjects))
        events.append("tested", final=over_subjects(tested), sites=tested, unseen_sites=tested_unseen, best=state.best)
        state.tested = True
        run_state.save(run_dir, state, events)


class Exchange:
    """Requests to named sites and their checked replies, over any Flower grid."""

    def __init__(
        self, grid: Grid, nodes: Mapping[str, int], events: EventLog, config: RunConfig, *, run_id: str
    ) -> None:
        self._grid, self._nodes, self._events, self._run_id = grid, nodes, events, run_id
        self._deadline_s = config.federation.deadline_s
        self._task = task_json(task_of(config))

    def request(self, action: str, *, round: int, weights: Weights, subjects: str = "") -> Request:
        """A request for all sites of this exchange; its nonce is new."""
        return Request(action, self._run_id, round, secrets.token_hex(16), self._task, subjects, pack(weights))

    def ask(self, sites: Sequence[str], request: Request) -> dict[str, Reply]:
        """Send the request to the sites; {site: reply} of those that gave an answer to it, in the order of names.

        Who fails, answers something else or not at all is named in the events.
        """
        names = {self._nodes[site]: site for site in sites}
        messages = [
            Message(_records(request), node_id, request.action, group_id=str(request.round)) for node_id in names
        ]
        replies: dict[str, Reply] = {}
        failed = set()
        for message in self._grid.send_and_receive(messages, timeout=self._deadline_s) if messages else ():
            site = names.get(message.metadata.src_node_id)
            if site is None:  # Flower's own error replies come from no node; the site is named as missing below
                continue
            try:
                if message.has_error():
                    raise ProtocolError(message.error.reason or "no reason given")
                reply = _reply(message)
                check_answer(reply, request)
                replies[site] = reply
            except AgiError as error:
                failed.add(site)
                self._events.append(
                    "site_failed", site=site, round=request.round, action=request.action, reason=str(error)
                )
        for site in sorted(set(sites) - set(replies) - failed):
            self._events.append("site_missing", site=site, round=request.round, action=request.action)
        return dict(sorted(replies.items()))


def _new_run(run_dir: Path, config: RunConfig) -> tuple[RunState, EventLog]:
    state = RunState(weights=initial_weights(config))
    events = EventLog(run_dir)
    events.append(
        "run_started", run_id=state.run_id, sites=config.federation.sites, unseen_sites=config.federation.unseen_sites
    )
    run_state.save(run_dir, state, events)
    return state, events


def initial_weights(task: Task) -> Weights:
    """The model's weights before the first round, from the run's seed."""
    model = build_model(task.model, sources=len(parse_scenario(task.scenario).sources), seed=task.seed)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def _admitted(replies: Mapping[str, Reply], request: Request, events: EventLog) -> list[SiteUpdate]:
    updates = []
    for site, reply in replies.items():
        try:
            updates.append(admit(reply, request, site=site))
        except ProtocolError as error:
            events.append("update_refused", site=site, round=request.round, reason=str(error))
    return updates


def _by_site(metric: str, replies: Mapping[str, Reply], sites: Collection[str]) -> dict[str, float]:
    """The metric of each of the sites that sent it; those that train privately do not."""
    return {site: replies[site].metrics[metric] for site in sorted(sites) if metric in replies[site].metrics}


def _validated(events: EventLog, replies: Mapping[str, Reply], state: RunState, *, round: int) -> None:
    """Note the validation of the model after `round` that travelled in these replies."""
    rows = {site: row for site, reply in sorted(replies.items()) if (row := validation_row(reply))}
    mean = over_subjects(rows)
    events.append("validated", round=round, mean=mean, sites=rows)
    state.consider_best(round=round, psnr_db=mean.get("psnr_db"))


def _records(request: Request) -> RecordDict:
    arrays = ArrayRecord({dtype: Array(flat) for dtype, flat in request.weights.arrays.items()})
    return RecordDict({ARRAYS: arrays, SCALARS: ConfigRecord(dict(request_scalars(request)))})


def _reply(message: Message) -> Reply:
    content = message.content
    arrays = {dtype: array.numpy() for dtype, array in content.array_records.get(ARRAYS, {}).items()}
    return read_reply(
        dict(content.config_records.get(SCALARS, {})), dict(content.metric_records.get(METRICS, {})), arrays
    )
