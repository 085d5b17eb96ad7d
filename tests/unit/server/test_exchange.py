"""One exchange with three sites over a grid in this process: what comes back, and what the events say."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import DEFAULT_TTL
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from agi_core.config.load import load_config, read_task
from agi_core.errors import (
    BudgetError,
    BusyError,
    DataError,
    NotPrivateError,
    PolicyError,
    PrivacyError,
    TransportError,
)
from agi_core.protocol import (
    ARRAYS,
    EVALUATE,
    FAILED,
    METRICS,
    REFUSED,
    RELEASE,
    SCALARS,
    TRAIN,
    VALIDATION,
    Reply,
    Request,
    Weights,
    pack,
    read_request,
    reply_scalars,
    unpack,
)
from agi_core.release import release
from agi_core.run import progress
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import Exchanging, SiteFailed, SiteMissing, Waiting
from agi_core.signatures import check, public_line
from server import exchange, pulls
from server.exchange import GRACE_S, Exchange, Outcome
from server.messages import array_records
from simulations.local_grid import LocalGrid
from tests.support.requests_by_hand import KEY
from tests.support.unsteady_grid import UnsteadyGrid

SITES = ("A", "B", "C")
NODES = {"A": 2, "B": 3, "C": 4}  # as the grid numbers them
WEIGHTS: Weights = {"w": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3), "n": np.array([7], np.int64)}
Answer = Callable[[Message], Message]


def read(message: Message) -> Request:
    """The request in a message, as a site reads it."""
    arrays = {dtype: array.numpy() for dtype, array in message.content.array_records[ARRAYS].items()}
    scalars = dict(message.content.config_records[SCALARS])
    assert scalars.pop(RELEASE) == release()
    return read_request(scalars, arrays)


def answering(*, scalars: Mapping[str, Any] | None = None, **changed: Any) -> Answer:
    """A site that sends the weights back as they came, with some fields changed."""

    def answer(message: Message) -> Message:
        request = read(message)
        fields = {
            "run_id": request.run_id,
            "round": request.round,
            "nonce": request.nonce,
            "num_examples": 3,
            "metrics": {"train_loss": 0.5},
            "weights": request.weights,
            "steps": 2,
        }
        reply = Reply(**{**fields, **changed})
        records = RecordDict(
            {
                SCALARS: ConfigRecord({**reply_scalars(reply), **(scalars or {})}),
                METRICS: MetricRecord(dict(reply.metrics)),
            }
        )
        if reply.weights is not None:
            records[ARRAYS] = ArrayRecord({dtype: Array(flat) for dtype, flat in reply.weights.arrays.items()})
        return Message(records, reply_to=message)

    return answer


def failing(code: int, reason: str) -> Answer:
    return lambda message: Message(Error(code, reason), reply_to=message)


class Sites(ClientApp):
    """Sites that answer as they are told, and keep what they were asked."""

    def __init__(self, **answers: Answer) -> None:
        super().__init__()
        self.asked: dict[str, Message] = {}
        self._answers = answers

    def __call__(self, message: Message, context: Context) -> Message:
        site = str(context.node_config["site"])
        self.asked[site] = message
        return self._answers.get(site, answering())(message)


class Grid(UnsteadyGrid):
    """An `UnsteadyGrid` of three sites, all of them there unless the test says otherwise."""

    def __init__(
        self,
        app: ClientApp,
        *,
        away: Mapping[str, int] | None = None,
        silent: str = "",
        refused: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(app, [{"site": site} for site in SITES], away or {}, silent, refused or {})


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that nobody waits."""
    monkeypatch.setattr(exchange, "POLL_S", 0.01)
    monkeypatch.setattr(exchange, "CONNECTION_POLL_S", 0.01)


def exchange_over(grid: Grid, run_dir: Path, *settings: str) -> Exchange:
    overrides = {"federation.subjects": dict.fromkeys(SITES, 10), "engine": "deployment"}
    config = load_config(None, overrides=overrides, assignments=["federation.wait_s=5", *settings])
    return Exchange(grid, EventLog(run_dir), config, run_id="run", key=KEY)


def ask(run_dir: Path, *, grid: type[Grid] = Grid, app: Sites | None = None, **answers: Answer) -> Outcome:
    """The outcome of one training request to all sites."""
    talk = exchange_over(grid(app or Sites(**answers)), run_dir)
    return talk.ask(NODES, talk.request(TRAIN, round=4, weights=WEIGHTS))


def troubles(run_dir: Path, kind: type[SiteFailed] | type[SiteMissing]) -> list[tuple[str, int, str, str]]:
    """(site, round, action, reason) of all such events; none where nothing was noted."""
    if not (run_dir / "events.jsonl").exists():
        return []
    return [(event.site, event.round, event.action, event.reason) for event in events_of(run_dir, kind)]


# THE REQUEST


def test_a_request_says_what_to_do_and_by_when(tmp_path: Path) -> None:
    talk = exchange_over(Grid(Sites()), tmp_path, "federation.deadline_s=90.5", "rounds=7")
    request = talk.request(EVALUATE, round=3, weights=WEIGHTS, subjects=VALIDATION)
    assert (request.action, request.run_id, request.round, request.subjects) == (EVALUATE, "run", 3, VALIDATION)
    assert request.deadline_s == 91
    assert read_task(request.task).rounds == 7
    np.testing.assert_array_equal(unpack(request.weights)["w"], WEIGHTS["w"])


def test_a_site_can_get_what_no_other_site_gets(tmp_path: Path) -> None:
    sites = Sites()
    talk = exchange_over(Grid(sites), tmp_path)
    request = talk.request(EVALUATE, round=3, weights=WEIGHTS, subjects=VALIDATION)
    own = {site: request.weights.beside("own", np.full(2, number, np.float64)) for number, site in enumerate("BC")}
    assert sorted(talk.ask(NODES, request, of_site=own).replies) == ["A", "B", "C"]
    got = {site: read(message) for site, message in sites.asked.items()}
    for site, its in got.items():
        check(its, public_line(KEY), site=site)
        np.testing.assert_array_equal(unpack(its.weights)["w"], WEIGHTS["w"])
    assert {site: unpack(its.weights).get("own", np.array([-1])).tolist() for site, its in got.items()} == {
        "A": [-1],
        "B": [0, 0],
        "C": [1, 1],
    }


def test_what_sites_get_alike_is_there_once() -> None:
    packed = pack(WEIGHTS)
    one, same, other = array_records([packed, packed, packed.beside("own", np.zeros(2))])
    assert one is same
    assert other["float32"].data is one["float32"].data


def test_halves_travel_to_training_alone(tmp_path: Path) -> None:
    talk = exchange_over(Grid(Sites()), tmp_path, "federation.transport=float16")
    assert talk.request(TRAIN, round=1, weights=WEIGHTS).weights.transport == "float16"
    assert talk.request(EVALUATE, round=1, weights=WEIGHTS).weights.transport == "float32"
    with pytest.raises(TransportError, match="too large for float16"):
        talk.request(TRAIN, round=1, weights={"w": np.array([1e6], np.float32)})


def test_every_site_gets_the_same_request_signed_for_it_with_a_nonce_of_its_own(tmp_path: Path) -> None:
    sites = Sites()
    ask(tmp_path, app=sites)
    requests = {site: read(message) for site, message in sites.asked.items()}
    assert set(requests) == set(SITES)
    assert len({request.nonce for request in requests.values()}) == 3
    assert all(len(request.nonce) == 32 for request in requests.values())
    for site, request in requests.items():
        check(request, public_line(KEY), site=site)
    for site, message in sites.asked.items():
        assert (message.metadata.message_type, message.metadata.group_id) == (TRAIN, "4")
        np.testing.assert_array_equal(unpack(requests[site].weights)["w"], WEIGHTS["w"])


def test_a_request_expires_after_we_have_stopped_waiting_for_it(tmp_path: Path) -> None:
    for engine, lifetime_s in (("deployment", 30 + 2 * GRACE_S), ("in-process", DEFAULT_TTL)):
        sites = Sites()
        talk = exchange_over(Grid(sites), tmp_path, "federation.deadline_s=30", f"engine={engine}")
        talk.ask(NODES, talk.request(TRAIN, round=1, weights=WEIGHTS))
        assert sites.asked["A"].metadata.ttl == pytest.approx(lifetime_s)


def test_once_enough_have_replied_the_others_have_the_grace_alone(tmp_path: Path) -> None:
    """C is connected and says nothing; the deadline is an hour away."""
    settings = ("federation.quorum=2", "federation.grace_s=0.1")
    talk = exchange_over(Grid(Sites(), silent="C"), tmp_path, *settings)
    outcome = talk.ask(NODES, talk.request(TRAIN, round=1, weights=WEIGHTS), enough=2)
    assert (sorted(outcome.replies), outcome.late) == (["A", "B"], ["C"])
    assert troubles(tmp_path, SiteMissing) == [("C", 1, TRAIN, "no answer to train within 0.1 s after the quorum")]


# THE ANSWERS


def test_replies_come_back_by_site(tmp_path: Path) -> None:
    outcome = ask(tmp_path, B=answering(num_examples=9, metrics={"train_loss": 0.25, "seconds": 2}))
    assert set(outcome.replies) == set(SITES)
    assert (outcome.failed, outcome.malformed, outcome.sitting_out) == ([], {}, {})
    assert (outcome.replies["B"].num_examples, outcome.replies["B"].metrics["train_loss"]) == (9, 0.25)
    assert all(outcome.settles(site) for site in SITES)
    assert not (tmp_path / "events.jsonl").exists()


def test_an_answer_to_an_evaluation_brings_no_weights(tmp_path: Path) -> None:
    talk = exchange_over(Grid(Sites(A=answering(weights=None, metrics={"psnr_db": 20.0}))), tmp_path)
    outcome = talk.ask({"A": 2}, talk.request(EVALUATE, round=1, weights=WEIGHTS, subjects=VALIDATION))
    assert outcome.replies["A"].weights is None
    assert outcome.replies["A"].metrics == {"psnr_db": 20.0}


@pytest.mark.parametrize("error", [BudgetError, NotPrivateError, PolicyError, PrivacyError])
def test_a_site_may_sit_out(tmp_path: Path, error: type[BudgetError]) -> None:
    outcome = ask(tmp_path, B=failing(REFUSED, error.public))
    assert outcome.sitting_out == {"B": error.public}
    assert outcome.failed == []
    assert outcome.settles("B")


@pytest.mark.parametrize(
    ("code", "reason", "noted"),
    [
        (REFUSED, DataError.public, DataError.public),
        (REFUSED, BusyError.public, BusyError.public),  # soon the ledger is free
        (FAILED, PolicyError.public, PolicyError.public),  # only a refusal is a right
        (FAILED, "", "no reason given"),
        (FAILED, "two\nlines \x1b[31mand a colour", "two lines [31mand a colour"),
        (FAILED, "x" * 500, "x" * 200),
        (ErrorCode.NODE_UNAVAILABLE, "Error: Node Unavailable", "its connection was lost for a minute"),
        (ErrorCode.CLIENT_APP_CRASHED, "Error: crashed", "its runner was lost for a minute"),
        (ErrorCode.MESSAGE_UNAVAILABLE, "Error: expired", "no answer in time"),
        (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "Error: gone", "its answer was lost on the way"),
    ],
)
def test_an_error_is_noted_in_words_for_a_person(tmp_path: Path, code: int, reason: str, noted: str) -> None:
    outcome = ask(tmp_path, B=failing(code, reason))
    assert (outcome.failed, outcome.malformed, outcome.sitting_out) == (["B"], {}, {})
    assert set(outcome.replies) == {"A", "C"}
    assert not outcome.settles("B")  # it may be asked again
    ((site, round, action, told),) = troubles(tmp_path, SiteFailed)
    assert (site, round, action) == ("B", 4, TRAIN)
    assert told.startswith(noted)
    assert len(told) <= 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answering(nonce="0" * 32), "the reply's nonce is not that of the request"),
        (answering(round=3), "the reply's round is not that of the request"),
        (answering(run_id="another"), "the reply's run_id is not that of the request"),
        (answering(num_examples=11), "the reply counts 11 subjects, 10 are registered"),
        (answering(metrics={"secret": 1.0}), "the reply tells secret, which nobody asked for"),
        (answering(metrics={"train_loss": float("nan")}), "metric train_loss=nan is not a finite number"),
        (answering(scalars={"num_examples": "3"}), "field num_examples='3' must be of type int"),
        (answering(scalars={"subject_ids": "all"}), "unknown fields: subject_ids"),
    ],
)
def test_an_answer_that_is_no_reply_is_kept_for_a_strike(tmp_path: Path, answer: Answer, reason: str) -> None:
    outcome = ask(tmp_path, B=answer)
    assert outcome.failed == ["B"]
    assert outcome.malformed == {"B": reason}
    assert outcome.settles("B")
    assert troubles(tmp_path, SiteFailed) == []  # the refusal is the event


def test_bytes_that_numpy_cannot_read_are_no_reply(tmp_path: Path) -> None:
    def hostile(message: Message) -> Message:
        reply = answering()(message)
        reply.content.array_records[ARRAYS] = ArrayRecord(
            {"float32": Array(dtype="object", shape=(6,), stype="numpy.ndarray", data=b"\x80\x04no array")}
        )
        return reply

    assert ask(tmp_path, B=hostile).malformed["B"].startswith("the reply cannot be read: ")


class Broken(Grid):
    """B's answer cannot be read. As Flower's own grid, this one raises then, and has lost all that it was asked for."""

    error: Exception = AttributeError("'ConfigRecord' object has no attribute 'metadata'")

    def __init__(self, app: ClientApp) -> None:
        super().__init__(app)
        self._asked: set[str] = set()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = {*message_ids}
        pulled = [*super().pull_messages(asked)]
        again, self._asked = asked & self._asked, self._asked | asked
        if any(message.metadata.src_node_id == NODES["B"] for message in pulled):
            raise self.error
        return [*pulled, *map(self._unavailable, again)]

    def _unavailable(self, message_id: str) -> Message:
        message = Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, "gone"), reply_to=Message(RecordDict(), 1, TRAIN))
        message.metadata.__dict__["_reply_to_message_id"] = message_id
        return message


class Refused(Broken):
    error = httpx.HTTPStatusError("", request=httpx.Request("POST", "https://localhost"), response=httpx.Response(400))


@pytest.mark.parametrize(("grid", "name"), [(Broken, "AttributeError"), (Refused, "HTTPStatusError")])
def test_an_answer_that_breaks_flower_is_kept_for_a_strike(tmp_path: Path, grid: type[Broken], name: str) -> None:
    """25 bytes that are a record and no message ended the run, and took the others' answers along."""
    outcome = ask(tmp_path, grid=grid)
    assert set(outcome.replies) == {"A", "C"}
    assert outcome.malformed == {"B": f"the reply cannot be read: {name}"}
    assert outcome.failed == ["B"]


def test_a_superlink_that_is_busy_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Grid):
        calls = 0

        def _sometimes(self) -> None:
            self.calls += 1
            if self.calls % 2:
                request = httpx.Request("POST", "https://localhost")
                raise httpx.HTTPStatusError("locked", request=request, response=httpx.Response(500))

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            self._sometimes()
            return super().push_messages(messages)

        def get_nodes(self) -> Iterable[NodeInfo]:
            self._sometimes()
            return super().get_nodes()

    monkeypatch.setattr(exchange, "AGAIN_S", (0.0,))
    talk = exchange_over(Busy(Sites()), tmp_path)
    assert {*talk.wait_for(SITES, enough=3, round=4)} == {*SITES}
    assert {*talk.ask(NODES, talk.request(TRAIN, round=4, weights=WEIGHTS)).replies} == {*SITES}


def test_a_superlink_that_says_no_is_not_asked_again(tmp_path: Path) -> None:
    class Over(Grid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            raise Refused.error

    talk = exchange_over(Over(Sites()), tmp_path)
    with pytest.raises(httpx.HTTPStatusError):
        talk.ask(NODES, talk.request(TRAIN, round=4, weights=WEIGHTS))


def test_an_answer_in_anothers_name_counts_against_who_was_asked(tmp_path: Path) -> None:
    class Impersonating(Broken):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            pulled = [*LocalGrid.pull_messages(self, message_ids)]
            for message in pulled:
                if message.metadata.src_node_id == NODES["B"]:
                    message.metadata.__dict__["_reply_to_message_id"] = "that of A"
                    self._asked |= {*message_ids}
            return pulled or [self._unavailable(asked) for asked in self._asked & {*message_ids}]

    outcome = ask(tmp_path, grid=Impersonating)
    assert set(outcome.replies) == {"A", "C"}
    assert outcome.malformed == {"B": "the reply cannot be read: it answers another message"}


def test_an_answer_whose_parts_never_come_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower waits for them, here until the test ends, in a pull of B's answer and of one that nobody asked for."""
    over = threading.Event()

    class Announced(Grid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            pulled = [*super().pull_messages(message_ids)]
            if not [*message_ids] or any(message.metadata.src_node_id == NODES["B"] for message in pulled):
                over.wait()
            return pulled

    monkeypatch.setattr(exchange, "GRACE_S", 0.1)
    monkeypatch.setattr(pulls, "PATIENCE_S", 0.01)
    talk = exchange_over(Announced(Sites()), tmp_path, "federation.deadline_s=1")
    began = time.monotonic()
    try:
        outcome = talk.ask(NODES, talk.request(TRAIN, round=4, weights=WEIGHTS))
    finally:
        over.set()
    assert time.monotonic() - began < 10
    assert set(outcome.replies) == {"A", "C"}
    assert troubles(tmp_path, SiteMissing) == [("B", 4, TRAIN, "no answer to train within 1 s")]


def test_the_sites_of_a_simulation_work_in_turn(tmp_path: Path) -> None:
    """Each works in the thread that asks, however long it takes: they share one network."""
    workers = []

    def work(message: Message) -> Message:
        workers.append(threading.current_thread())
        return answering()(message)

    talk = exchange_over(Grid(Sites(A=work, B=work, C=work)), tmp_path, "engine=in-process")
    outcome = talk.ask(NODES, talk.request(TRAIN, round=4, weights=WEIGHTS))
    assert set(outcome.replies) == set(SITES)
    assert workers == [threading.current_thread()] * 3


def test_what_nobody_asked_for_is_nobodys_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It comes with the next answer that is pulled, whoever wrote it."""

    class Uninvited(Grid):
        left = 2

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            self.left -= 1
            if self.left >= 0:
                raise AttributeError
            return super().pull_messages(message_ids)

    outcome = ask(tmp_path, grid=Uninvited)
    assert (set(outcome.replies), outcome.failed) == (set(SITES), [])
    assert caplog.messages == ["something came that nobody asked for, and cannot be read (AttributeError)"]


@pytest.mark.parametrize(
    "answer", [answering(scalars={"protocol": 1}), lambda message: Message(RecordDict(), reply_to=message)]
)
def test_another_release_fails_but_means_no_harm(tmp_path: Path, answer: Answer) -> None:
    outcome = ask(tmp_path, B=answer)
    assert (outcome.failed, outcome.malformed) == (["B"], {})
    ((_, _, _, reason),) = troubles(tmp_path, SiteFailed)
    assert "install one release everywhere" in reason


# THE NETWORK


def test_a_silent_site_is_missing_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "GRACE_S", 0.0)
    talk = exchange_over(Grid(Sites(), silent="B"), tmp_path, "federation.deadline_s=0.6")
    outcome = talk.ask(NODES, talk.request(TRAIN, round=4, weights=WEIGHTS))
    assert set(outcome.replies) == {"A", "C"}
    assert outcome.failed == []
    assert troubles(tmp_path, SiteMissing) == [("B", 4, TRAIN, "no answer to train within 1 s")]


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_simulated_sites_may_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """One at a time, each within its deadline, and the last ones long after it."""

    class Queue(Grid):
        done_s = 0.0  # when the site now at work will have answered

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if not (asked := [*message_ids]) or time.monotonic() < self.done_s:
                return []
            self.done_s = time.monotonic() + 0.2
            return super().pull_messages(asked)

    monkeypatch.setattr(exchange, "GRACE_S", 0.0)
    talk = exchange_over(Queue(Sites()), tmp_path, "federation.deadline_s=0.3", f"engine={engine}")
    assert set(talk.ask(NODES, talk.request(TRAIN, round=4, weights=WEIGHTS)).replies) == set(SITES)
    assert troubles(tmp_path, SiteMissing) == []


def test_a_request_that_is_not_delivered_is_not_waited_for(tmp_path: Path) -> None:
    class Dropping(Grid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            _, *others = super().push_messages(messages)
            return ["", *others]

    assert set(ask(tmp_path, grid=Dropping).replies) == {"B", "C"}
    assert troubles(tmp_path, SiteMissing) == [("A", 4, TRAIN, "the request could not be delivered")]


def test_a_second_answer_to_one_request_is_left_out(tmp_path: Path) -> None:
    class Repeating(Grid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return [message for message in super().pull_messages(message_ids) for _ in range(2)]

    outcome = ask(tmp_path, grid=Repeating)
    assert (set(outcome.replies), outcome.failed) == (set(SITES), [])


def test_answers_are_collected_as_they_come(tmp_path: Path) -> None:
    class OneByOne(Grid):
        left = 0

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            asked = [*message_ids]
            self.left = self.left - 1 if asked else 1  # a look begins with a pull of nothing
            return super().pull_messages(asked) if self.left == 0 else []

    heard: list[Exchanging] = []
    with progress.listening(lambda news: heard.append(news) if isinstance(news, Exchanging) else None):
        ask(tmp_path, grid=OneByOne, B=failing(FAILED, "no"))
    assert [(news.waiting_for, news.answered, news.failed) for news in heard] == [
        (["A", "B", "C"], [], []),
        (["B", "C"], ["A"], []),
        (["C"], ["A"], ["B"]),
        ([], ["A", "C"], ["B"]),
    ]
    assert {(news.round, news.action) for news in heard} == {(4, TRAIN)}


def test_a_superlink_that_recovers_is_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Unreachable(Grid):
        calls = 0

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            self.calls += 1
            if self.calls == 1:
                raise httpx.ConnectError("connection refused")
            if self.calls == 2:
                self._refused["pull"] = 500
            return super().pull_messages(message_ids)

    assert set(ask(tmp_path, grid=Unreachable).replies) == set(SITES)
    assert caplog.messages == [
        "the SuperLink does not answer (connection refused); asking again",
        "the SuperLink answers 500; asking again",
    ]


def test_a_superlink_that_refuses_ends_the_exchange(tmp_path: Path) -> None:
    talk = exchange_over(Grid(Sites(), refused={"pull": 403}), tmp_path)
    with pytest.raises(httpx.HTTPStatusError):
        talk.ask(NODES, talk.request(TRAIN, round=1, weights=WEIGHTS))


def test_nobody_is_asked(tmp_path: Path) -> None:
    sites = Sites()
    talk = exchange_over(Grid(sites), tmp_path)
    assert talk.ask({}, talk.request(TRAIN, round=1, weights=WEIGHTS)) == Outcome()
    assert sites.asked == {}
    talk.note_absent(["B"], talk.request(TRAIN, round=1, weights=WEIGHTS))
    assert troubles(tmp_path, SiteMissing) == [("B", 1, TRAIN, "not connected")]


# WAITING FOR SITES


def test_it_waits_for_enough_sites_and_says_for_whom(tmp_path: Path) -> None:
    talk = exchange_over(Grid(Sites(), away={"B": 2, "C": 4}), tmp_path)
    assert talk.wait_for(SITES, enough=1, round=2) == {"A": 2}
    heard: list[Exchanging] = []
    with progress.listening(lambda news: heard.append(news) if isinstance(news, Exchanging) else None):
        assert talk.wait_for(SITES, enough=3, round=2) == NODES
    waited = events_of(tmp_path, Waiting)
    assert [(event.round, event.sites, event.limit_s) for event in waited] == [(2, ["B", "C"], 5.0), (2, ["C"], 5.0)]
    assert [(news.action, news.waiting_for) for news in heard] == [("connecting", ["B", "C"]), ("connecting", ["C"])]


def test_it_waits_no_longer_than_its_limit(tmp_path: Path) -> None:
    talk = exchange_over(Grid(Sites(), away={"C": 10**9}), tmp_path, "federation.wait_s=0.1")
    assert talk.wait_for(SITES, enough=3, round=1) == {"A": 2, "B": 3}
    assert len(events_of(tmp_path, Waiting)) == 1


def test_nobody_is_waited_for_where_none_is_needed(tmp_path: Path) -> None:
    talk = exchange_over(Grid(Sites(), away={"C": 10**9}), tmp_path)
    assert talk.wait_for(["C"], enough=0, round=1) == {}
    assert not (tmp_path / "events.jsonl").exists()
