from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

import client.app
from agi_core.errors import AgiError, ConfigError, ExhaustedError, PolicyError, SignatureError
from agi_core.protocol import FAILED, PROTOCOL_VERSION, REFUSED, model_hash, pack
from agi_core.release import release
from client.border import audit, consent
from client.border.audit import Decision
from tests.support.requests_by_hand import (
    as_message,
    ask,
    deployed_site,
    metrics,
    reason,
    small_task,
    trained,
    training_request,
)
from tests.support.small_data import write_ixi


@pytest.fixture
def site_path(tmp_path: Path, ixi_dir: Path) -> Path:
    return deployed_site(tmp_path, ixi_dir)


def test_another_protocol_is_refused_with_both_versions(site_path: Path) -> None:
    reply = ask(site_path, as_message(training_request(*small_task()), protocol=7))
    assert reply.error.code == REFUSED
    assert "has 7" in reason(reply)
    assert f"program {PROTOCOL_VERSION}" in reason(reply)


@pytest.mark.parametrize("theirs", ["0.1.0 (code 0123456789, torch 2.1.0, flwr 1.40.0)", 7, "\x1b[2J" + "x" * 200])
def test_another_release_is_refused_with_both_values(site_path: Path, theirs: object) -> None:
    reply = ask(site_path, as_message(training_request(*small_task()), release=theirs))
    assert reply.error.code == REFUSED
    assert reason(reply).startswith("release: the message has ")
    assert f"this program {release()}; install one release everywhere." in reason(reply)
    assert reason(reply).isprintable()


def test_a_coordinator_that_tells_no_release_is_refused(site_path: Path) -> None:
    message = as_message(training_request(*small_task()))
    del message.content.config_records["scalars"]["release"]
    assert reason(ask(site_path, message)).startswith("release: the message has None, this program")


def test_a_site_that_asks_answers_no_study_before_somebody_agreed(tmp_path: Path, ixi_dir: Path) -> None:
    site_path = deployed_site(tmp_path, ixi_dir, rules="policy: {studies: ask}\n")
    message = as_message(training_request(*small_task()))
    assert reason(ask(site_path, message)) == PolicyError.public
    consent.agree(tmp_path / "state", *consent.studies(tmp_path / "state"))
    assert not ask(site_path, message).has_error()


def test_another_model_is_refused_with_both_hashes(site_path: Path) -> None:
    task, weights = small_task()
    ours = model_hash(pack(weights).manifest)
    name = next(iter(weights))
    weights[name] = np.zeros((1, *weights[name].shape), np.float32)
    theirs = model_hash(pack(weights).manifest)
    reply = ask(site_path, as_message(training_request(task, weights)))
    assert reply.error.code == REFUSED
    assert ours != theirs
    assert f"has {theirs}" in reason(reply)
    assert f"program {ours}" in reason(reply)


@pytest.mark.parametrize(
    "changed", [{"signature": ""}, {"signature": "00" * 64}, {"run_id": "another"}, {"site": "another"}]
)
def test_what_the_coordinator_did_not_sign_for_this_site_is_refused(site_path: Path, changed: dict[str, str]) -> None:
    reply = ask(site_path, as_message(training_request(*small_task()), **changed))
    assert (reply.error.code, reason(reply)) == (REFUSED, SignatureError.public)
    (row,) = audit.read(site_path.parent / "state")
    assert (row.decision, row.reason) == (Decision.REFUSED, SignatureError.public)


def test_no_two_records_that_leave_are_alike(site_path: Path) -> None:
    """Else another site can announce one, with other parts, so that Flower refuses this one's."""
    task, weights = small_task()
    message = as_message(training_request(task, weights))
    first, again = ask(site_path, message), ask(site_path, as_message(training_request(task, weights, nonce="new")))
    assert trained(again) == trained(first)
    assert not set(get_all_nested_objects(first)) & set(get_all_nested_objects(again))
    assert not set(get_all_nested_objects(first)) & set(get_all_nested_objects(message))


@pytest.mark.parametrize("task", ["{", '{"rounds": 0}', '{"shell": "rm"}', "[]"])
def test_a_task_that_cannot_be_read_is_refused(site_path: Path, task: str) -> None:
    reply = ask(site_path, as_message(training_request(task, small_task()[1])))
    assert (reply.error.code, reason(reply)) == (REFUSED, ConfigError.public)


def test_a_repeated_request_is_not_trained_again(site_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, weights = small_task()
    first = ask(site_path, as_message(training_request(task, weights)))

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(client.app, "answer", no_training)
    again = ask(site_path, as_message(training_request(task, weights, nonce="new")))
    assert again.content.config_records["scalars"]["nonce"] == "new"
    assert trained(again) == trained(first)
    assert metrics(again) == metrics(first)
    assert ask(site_path, as_message(training_request(task, weights, round=2))).has_error()


def test_a_repeated_request_gets_the_same_reply_whoever_has_left(tmp_path: Path) -> None:
    """Else the difference of two answers would tell of them."""
    data_dir, (task, weights) = write_ixi(tmp_path / "ixi", {"Guys": 12}), small_task()
    site_path = deployed_site(tmp_path, data_dir)
    first = ask(site_path, as_message(training_request(task, weights)))
    for scan in data_dir.glob("*/IXI100-*"):
        scan.unlink()
    again = ask(site_path, as_message(training_request(task, weights, nonce="new")))
    assert trained(again) == trained(first)


@pytest.mark.parametrize(
    ("error", "public"),
    [
        (torch.OutOfMemoryError("CUDA out of memory, /data/patient-0042"), ExhaustedError.public),
        (MemoryError("patient-0042"), ExhaustedError.public),
        (ZeroDivisionError("patient-0042"), AgiError.public),
    ],
)
def test_a_failure_leaves_as_a_public_sentence_and_the_next_request_works(
    site_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, public: str
) -> None:
    released = []

    def fails(*_: object, **__: object) -> None:
        raise error

    message = as_message(training_request(*small_task()))
    with monkeypatch.context() as broken:
        broken.setattr(client.app, "answer", fails)
        broken.setattr(torch.cuda, "empty_cache", lambda: released.append(True))
        reply = ask(site_path, message)
    assert (reply.error.code, reason(reply)) == (FAILED, public)
    assert bool(released) == (public == ExhaustedError.public)
    assert not ask(site_path, message).has_error()
