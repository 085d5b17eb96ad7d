"""Who is asked in round after round, over a grid in this process. C is the site that gives trouble."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from agi_core.config.load import load_config
from agi_core.errors import DataError, DeadlineError
from agi_core.protocol import METRICS, REFUSED, SCALARS, TRAIN, Reply, Request, reply_scalars
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import SiteQuarantined, SiteSatOut, UpdateRefused
from server import exchange, strikes
from server.collector import Collector, Judge
from server.exchange import Exchange
from server.run_state import RunState
from server.update_gate import Verdict
from simulations.local_grid import LocalGrid
from tests.support.requests_by_hand import KEY

SITES = ("A", "B", "C")
LATE, BROKEN = (Error(REFUSED, error.public) for error in (DeadlineError, DataError))


class Sites(ClientApp):
    """Sites that answer, but C with these errors in these rounds, or in all others."""

    def __init__(self, errors: Mapping[int, Error | None], others: Error | None = None) -> None:
        super().__init__()
        self.errors, self.others = errors, others
        self.asked = list[int]()  # rounds in which C was

    def __call__(self, message: Message, context: Context) -> Message:
        asked = message.content.config_records[SCALARS]
        round = int(str(asked["round"]))
        if context.node_config["site"] == "C":
            self.asked.append(round)
            if error := self.errors.get(round, self.others):
                return Message(error, reply_to=message)
        told = {"num_examples": 1, "metrics": {}, "weights": None}
        reply = Reply(run_id=str(asked["run_id"]), round=round, nonce=str(asked["nonce"]), **told)
        records = {SCALARS: ConfigRecord(dict(reply_scalars(reply))), METRICS: MetricRecord()}
        return Message(RecordDict(records), reply_to=message)


class Silent(LocalGrid):
    """The answers of C do not come. `leaves`: nor is it connected any more, after it was asked."""

    leaves = False

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = super().push_messages(messages)
        self.is_there = not self.leaves
        return ids

    def get_nodes(self) -> Iterable[NodeInfo]:
        nodes = [node for node in super().get_nodes() if node.name != "C" or self.is_there]
        self.is_there = True
        return nodes

    is_there = True

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        pulled = super().pull_messages(message_ids)
        return [message for message in pulled if message.metadata.src_node_id != len(SITES) + 1]


class Leaving(Silent):
    leaves = True


def judge(replies: Mapping[str, Reply], request: Request) -> Verdict[Reply]:
    return Verdict(replies)


def collect(
    run_dir: Path,
    app: ClientApp,
    *,
    rounds: int,
    grid: type[LocalGrid] = LocalGrid,
    all_needed: Collection[int] = (),
    judge: Judge[Reply] = judge,
) -> list[str]:
    """One exchange per round, with all sites. Two are enough, but in the rounds of `all_needed`. Who is late then."""
    settings = ["federation.wait_s=0", "federation.deadline_s=0.4"]
    overrides = {"federation.sites": SITES, "federation.subjects": dict.fromkeys(SITES, 10), "engine": "deployment"}
    config, events = load_config(None, overrides=overrides, assignments=settings), EventLog(run_dir)
    talk = Exchange(grid(app, [{"site": site} for site in SITES]), events, config, run_id="run", key=KEY)
    state = RunState({"w": np.ones(3, np.float32)}, run_id="run")
    collector = Collector(talk, config=config, state=state, events=events, strikes_path=run_dir / strikes.FILE)
    for round in range(1, rounds + 1):
        request = talk.request(TRAIN, round=round, weights=state.weights)
        assert {"A", "B"} <= {*collector.collect(SITES, request, judge, quorum=3 if round in all_needed else 2)}
    return [*collector.late]


def reasons(run_dir: Path) -> list[tuple[int, str]]:
    return [(event.round, event.reason) for event in events_of(run_dir, SiteSatOut) if event.site == "C"]


def test_who_is_late_again_and_again_is_asked_ever_more_rarely(tmp_path: Path) -> None:
    app = Sites({}, others=LATE)
    assert collect(tmp_path, app, rounds=23) == ["C"]
    assert app.asked == [1, 2, 3, 5, 8, 13, 22]
    assert reasons(tmp_path)[:2] == [
        (3, "it was late 3 times in a row; it is asked again in round 5"),
        (5, "it was late 4 times in a row; it is asked again in round 8"),
    ]
    assert strikes.read(tmp_path / strikes.FILE) == {}


def test_who_answers_again_is_asked_in_every_round(tmp_path: Path) -> None:
    app = Sites({1: LATE, 2: LATE, 3: LATE, 5: None, 6: LATE, 7: LATE, 8: None})
    assert collect(tmp_path, app, rounds=9) == []
    assert app.asked == [1, 2, 3, 5, 6, 7, 8, 9]


def test_who_answers_while_it_is_left_alone_is_asked_in_every_round(tmp_path: Path) -> None:
    app = Sites({1: LATE, 2: LATE, 3: LATE, 5: LATE})  # and would be asked again in round 8
    collect(tmp_path, app, rounds=8, all_needed=[6])
    assert app.asked == [1, 2, 3, 5, 6, 7, 8]


def test_another_failure_takes_no_time_and_does_not_count(tmp_path: Path) -> None:
    app = Sites({}, others=BROKEN)
    collect(tmp_path, app, rounds=5)
    assert app.asked == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("grid", "asked"), [(Silent, [1, 2, 3]), (Leaving, [1, 2, 3, 4])])
def test_silence_counts_while_the_site_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: type[Silent], asked: list[int]
) -> None:
    monkeypatch.setattr(exchange, "GRACE_S", 0.0)
    app = Sites({})
    collect(tmp_path, app, rounds=4, grid=grid)
    assert app.asked == asked


def test_what_a_site_wrote_is_one_line_without_escape_codes(tmp_path: Path) -> None:
    """The reason of a refusal quotes the names of its arrays."""

    def refuse_c(replies: Mapping[str, Reply], request: Request) -> Verdict[Reply]:
        others = {site: reply for site, reply in replies.items() if site != "C"}
        return Verdict(others, refused={"C": "\x1b[2J\ud800 all is well\n" + 10_000 * "x"})

    collect(tmp_path, Sites({}), rounds=1, judge=refuse_c)
    (refused,) = events_of(tmp_path, UpdateRefused)
    assert refused.reason.startswith("[2J all is well xxx")
    assert len(refused.reason) <= 200


def test_who_is_in_quarantine_from_an_earlier_run_is_named_once(tmp_path: Path) -> None:
    for round in (1, 2, 3):
        strikes.strike(tmp_path / strikes.FILE, "C", run="earlier", round=round, reason="no weights")
    app = Sites({})
    collect(tmp_path, app, rounds=3)
    collect(tmp_path, app, rounds=1)  # another question of the same run, or the run after a pause
    assert app.asked == []
    assert [(event.site, event.round) for event in events_of(tmp_path, SiteQuarantined)] == [("C", 1)]


def test_where_every_site_is_needed_none_is_left_alone(tmp_path: Path) -> None:
    app = Sites({1: LATE, 2: LATE, 3: LATE})
    collect(tmp_path, app, rounds=4, all_needed=[4])
    assert app.asked == [1, 2, 3, 4]
