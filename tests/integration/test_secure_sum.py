"""Whole federations whose coordinator sees sums alone: four small sites in this process."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import ConfigError, DataError, PolicyError, ProtocolError, RunError
from agi_core.host.keys import fingerprint
from agi_core.protocol import ARRAYS, KEYS, SCALARS, TRAIN, Request, pack, unpack
from agi_core.run.event_log import events_of
from agi_core.run.events import Retried, RoundFinished
from agi_core.secure_sum import Attempt, Participant, mean_of
from client.app import app as client_app
from client.border.secure_sum import mask, tell_key
from client.site.file import Site
from client.site.keys import make_key
from tests.support.requests_by_hand import as_message, ask, deployed_site, reason, small_task, training_request
from tests.support.small_federation import assert_same_weights, federate

Trouble = Callable[[Message], Message]


@pytest.fixture
def config(small_config: RunConfig) -> RunConfig:
    """One round of four sites with three subjects each, of which three are enough."""
    settings = ["clients=4", "partition=iid", "rounds=1", "federation.quorum=3", "federation.secure_sum=true"]
    settings += ["training.local_steps=1", "training.batch_size=1", "evaluation.validation_slices=0"]
    return load_config(None, overrides={}, assignments=settings, base=small_config)


class Watched(ClientApp):
    """The sites' real app; keeps what they send, and gives trouble at one site's n-th answer to a training request."""

    def __init__(self, trouble: Trouble | None = None, *, at: int = 0) -> None:
        super().__init__()
        self.trouble, self.at, self.answers = trouble, at, 0
        self.first: str | None = None
        self.sent: list[tuple[str, int, NDArray[Any]]] = []  # site, attempt's place in the order, vector

    def __call__(self, message: Message, context: Context) -> Message:
        site, training = str(context.node_config["site"]), message.metadata.message_type == TRAIN
        if not training:
            return client_app(message, context)
        self.first = self.first or site
        keys = message.content.config_records[SCALARS]["subjects"] == KEYS
        self.answers += site == self.first
        troubled = site == self.first and self.answers == self.at
        if troubled and self.trouble is not None:
            return self.trouble(client_app(message, context))
        reply = client_app(message, context)
        if reply.has_content() and not keys:
            self.sent.append((site, self.answers, reply.content.array_records[ARRAYS]["uint64"].numpy()))
        return reply


def lost(reply: Message) -> Message:
    raise DataError("its answer never came")


def test_the_model_is_that_of_the_plain_mean(config: RunConfig, tmp_path: Path) -> None:
    """Two rounds, within 1e-5; the vectors are of 64 bits, and tell no count of subjects."""
    two = dataclasses.replace(config, rounds=2)
    plain = dataclasses.replace(two, federation=dataclasses.replace(two.federation, secure_sum=False))
    federate(plain, tmp_path / "plain")
    watched = Watched()
    federate(two, tmp_path / "run", app=watched)
    assert_same_weights(tmp_path / "plain", tmp_path / "run", atol=1e-5)
    assert len(watched.sent) == 8
    for event in events_of(tmp_path / "run", RoundFinished):
        assert (len(event.sites), event.subjects) == (4, {})
        assert len(event.train_loss) == 4


@pytest.mark.parametrize("at", [1, 2])
def test_whoever_drops_out_is_left_out_of_a_new_attempt(config: RunConfig, tmp_path: Path, at: int) -> None:
    """Before its key, or after it, when the others have sent their vectors: these train anew, with other masks."""
    watched = Watched(lost, at=at)
    federate(config, tmp_path / "run", app=watched)
    (finished,) = events_of(tmp_path / "run", RoundFinished)
    assert len(finished.sites) == 3
    assert watched.first not in finished.sites
    attempts = at if at == 2 else 1
    assert len(watched.sent) == 3 * attempts
    assert len(events_of(tmp_path / "run", Retried)) == attempts - 1
    by_site: dict[str, list[NDArray[Any]]] = {}
    for site, _, vector in watched.sent:
        by_site.setdefault(site, []).append(vector)
    for vectors in by_site.values():
        assert len(vectors) == attempts
        assert all((vector != vectors[0]).mean() > 0.999 for vector in vectors[1:])


def test_a_run_pauses_where_too_few_are_left(config: RunConfig, tmp_path: Path) -> None:
    """All four are needed, and one drops out of both attempts. Those of the resumed run have other numbers: a hospital
    would answer the same ones again with keys that it has used, and vectors that gave no sum."""
    four = dataclasses.replace(config, federation=dataclasses.replace(config.federation, quorum=None))

    class Failing(Watched):
        fails = True

        def __init__(self, trouble: Trouble) -> None:
            super().__init__(trouble)
            self.numbers: list[int] = []

        def __call__(self, message: Message, context: Context) -> Message:
            if message.metadata.message_type == TRAIN:
                self.numbers.append(json.loads(str(message.content.config_records[SCALARS]["secure_sum"]))["number"])
            self.at = self.answers + 1 if self.fails and self.answers % 2 else 0  # at each vector
            return super().__call__(message, context)

    failing = Failing(lost)
    with pytest.raises(RunError, match="round 1: a site dropped out of the secure sum in each of 2 attempts"):
        federate(four, tmp_path / "run", app=failing)
    assert {*failing.numbers} == {1, 2}
    failing.fails, failing.numbers = False, []
    federate(four, tmp_path / "run", app=failing)
    assert {*failing.numbers} == {3}


@pytest.mark.slow  # a whole private run
def test_private_updates_are_summed_too(config: RunConfig, tmp_path: Path) -> None:
    settings = ["privacy.epsilon=8", "privacy.noise_multiplier=1", "privacy.lot_rate=0.5", "initial_weights=random"]
    private = load_config(None, overrides={}, assignments=settings, base=config)
    federate(private, tmp_path / "run")
    (finished,) = events_of(tmp_path / "run", RoundFinished)
    assert len(finished.sites) == 4


def test_two_sites_are_refused_before_the_run(small_config: RunConfig, tmp_path: Path) -> None:
    settings = ["clients=2", "partition=iid", "federation.secure_sum=true"]
    two = load_config(None, overrides={}, assignments=settings, base=small_config)
    with pytest.raises(ConfigError, match=r"federation.secure_sum=true needs 3 sites in every round"):
        federate(two, tmp_path / "run")


# A HOSPITAL


class Hospital:
    """A deployed site, Guys, whose file names B and C, and requests as a coordinator would send them."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.others = {name: Site(site=name, state_dir=str(folder / name)) for name in ("B", "C")}
        self.task, self.weights = small_task()
        named = [fingerprint(self.key_of(site, "").public_key) for site in self.others.values()]
        self.path = deployed_site(folder, data_dir, rules=f"policy: {{secure_sum_with: {json.dumps(named)}}}")
        make_key(folder / "Guys.key", site="Guys")

    def asked(self, *, nonce: str, **changed: Any) -> Request:
        return dataclasses.replace(training_request(self.task, self.weights, nonce=nonce), **changed)

    def asked_for_key(self, nonce: str) -> Request:
        return self.asked(nonce=nonce, subjects=KEYS, weights=pack({}), secure_sum=Attempt(1).text)

    def key_of(self, site: Site, nonce: str) -> Participant:
        return Participant.from_json(json.loads(unpack(tell_key(site, self.asked_for_key(nonce)))["key"].tobytes()))

    def answer(self, request: Request) -> Message:
        return ask(self.path, as_message(request))


def test_a_hospital_masks_one_vector_with_a_key(ixi_dir: Path, tmp_path: Path) -> None:
    """The same request gets the same vector again; another set of sites gets none."""
    hospital = Hospital(tmp_path, ixi_dir)
    told = hospital.answer(hospital.asked_for_key("1")).content.array_records[ARRAYS]["uint8"].numpy()
    keys = {name: hospital.key_of(site, "1") for name, site in hospital.others.items()}
    keys["Guys"] = Participant.from_json(json.loads(told.tobytes()))
    attempt = Attempt(1, 0.5, keys)
    request = hospital.asked(nonce="2", secure_sum=attempt.text)
    first, again = (hospital.answer(dataclasses.replace(request, nonce=nonce)) for nonce in "23")
    vector, repeated = (reply.content.array_records[ARRAYS]["uint64"].numpy() for reply in (first, again))
    np.testing.assert_array_equal(vector, repeated)
    assert first.content.config_records[SCALARS]["num_examples"] == 0

    nothing = np.zeros(vector.size - 1)
    others = [unpack(mask(site, request, update=nothing, subjects=1))["sum"] for site in hospital.others.values()]
    mean, subjects = mean_of([vector, *others], attempt, size=nothing.size, most_subjects=14)
    assert subjects > 2
    assert 0 < np.linalg.norm(mean) <= 0.5

    other = Attempt(1, 0.5, {**keys, "C": hospital.key_of(hospital.others["C"], "4")})
    refused = hospital.answer(hospital.asked(nonce="4", secure_sum=other.text))
    assert reason(refused) == ProtocolError.public


def test_an_update_alone_is_refused_where_the_file_lists_keys(ixi_dir: Path, tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, ixi_dir)
    assert reason(hospital.answer(hospital.asked(nonce="1"))) == PolicyError.public
