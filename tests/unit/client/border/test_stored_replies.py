import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from agi_core.protocol import EVALUATE, TEST, TRAIN, VALIDATION, Packed, Reply, Request, pack
from client.border.stored_replies import KEPT, store, stored
from client.site.file import Site, SiteData
from client.site.policy import Policy

WEIGHTS = pack({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64)})
TRAINED = pack({"a": np.ones((2, 3), np.float32), "n": np.array(4, np.int64)})
REQUEST = Request(
    action=TRAIN, run_id="run", round=3, nonce="nonce", task="{}", subjects="", deadline_s=60, weights=WEIGHTS
)
REPLY = Reply(
    run_id="run", round=3, nonce="nonce", num_examples=12, metrics={"train_loss": 0.25, "seconds": 1.5}, weights=TRAINED
)


def site_at(state_dir: Path) -> Site:
    return Site(site="A", cache_dir="cache", data=SiteData(dir="scans"), state_dir=str(state_dir))


def flat(packed: Packed | None) -> dict[str, list[float]]:
    assert packed is not None
    return {dtype: array.tolist() for dtype, array in packed.arrays.items()}


def test_a_repeated_request_gets_the_stored_reply_with_its_own_nonce(tmp_path: Path) -> None:
    assert stored(site_at(tmp_path), REQUEST) is None
    store(site_at(tmp_path), REQUEST, reply=REPLY)
    reply = stored(site_at(tmp_path), dataclasses.replace(REQUEST, nonce="another", deadline_s=5))
    assert reply is not None
    assert reply.nonce == "another"
    assert flat(reply.weights) == flat(TRAINED)
    assert dataclasses.replace(reply, nonce="nonce", weights=TRAINED) == REPLY


def test_a_reply_without_weights(tmp_path: Path) -> None:
    request = dataclasses.replace(REQUEST, action=EVALUATE, subjects=TEST)
    reply = dataclasses.replace(REPLY, weights=None)
    store(site_at(tmp_path), request, reply=reply)
    assert stored(site_at(tmp_path), request) == reply


@pytest.mark.parametrize(
    "change",
    [
        {"round": 4},
        {"run_id": "other"},
        {"action": EVALUATE},
        {"subjects": VALIDATION},
        {"task": '{"seed": 1}'},
        {"weights": pack({"a": np.zeros((2, 3), np.float32), "n": np.array(3, np.int64)})},
        {"weights": pack({"a": np.arange(6, dtype=np.float32).reshape(3, 2), "n": np.array(3, np.int64)})},
    ],
)
def test_another_request_gets_no_stored_reply(tmp_path: Path, change: dict[str, object]) -> None:
    store(site_at(tmp_path), REQUEST, reply=REPLY)
    assert stored(site_at(tmp_path), dataclasses.replace(REQUEST, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "edited",
    [
        {"policy": Policy(minimum_subjects=9)},
        {"policy": Policy(settings={"training.local_steps": 0})},
        {"data": SiteData(dir="scans", exclude=("IXI700",))},
    ],
)
def test_no_reply_is_older_than_the_site_s_rules(tmp_path: Path, edited: dict[str, object]) -> None:
    store(site_at(tmp_path), REQUEST, reply=REPLY)
    assert stored(dataclasses.replace(site_at(tmp_path), **edited), REQUEST) is None  # type: ignore[arg-type]


def test_only_the_last_reply_of_a_run_and_few_runs_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        for round in (1, 2):
            store(site_at(tmp_path), dataclasses.replace(REQUEST, run_id=f"run{number}", round=round), reply=REPLY)
    assert len(list((tmp_path / "replies").iterdir())) == KEPT
    last = dataclasses.replace(REQUEST, run_id=f"run{KEPT + 2}")
    assert stored(site_at(tmp_path), dataclasses.replace(last, round=2)) is not None
    assert stored(site_at(tmp_path), dataclasses.replace(last, round=1)) is None
    assert stored(site_at(tmp_path), dataclasses.replace(REQUEST, run_id="run0", round=2)) is None


def test_a_clock_that_was_set_back_costs_no_reply(tmp_path: Path) -> None:
    for number in range(KEPT):
        store(site_at(tmp_path), dataclasses.replace(REQUEST, run_id=f"run{number}"), reply=REPLY)
    for path in (tmp_path / "replies").iterdir():
        os.utime(path, (2**32, 2**32))
    store(site_at(tmp_path), REQUEST, reply=REPLY)
    assert stored(site_at(tmp_path), REQUEST) is not None
    assert len(list((tmp_path / "replies").iterdir())) == KEPT


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"no safetensors at all"])
def test_a_damaged_file_is_no_reply(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store(site_at(tmp_path), REQUEST, reply=REPLY)
    (path,) = (tmp_path / "replies").iterdir()
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert stored(site_at(tmp_path), REQUEST) is None
    assert "answered anew" in caplog.text


def test_what_a_coordinator_writes_never_becomes_a_path(tmp_path: Path) -> None:
    request = dataclasses.replace(REQUEST, run_id="../../secret", subjects="/etc")
    store(site_at(tmp_path / "state"), request, reply=REPLY)
    files = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert [path.parent for path in files] == [tmp_path / "state" / "replies"]
    assert stored(site_at(tmp_path / "state"), request) is not None


def test_a_disk_that_cannot_be_written_costs_only_the_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        store(site_at(tmp_path / "state"), REQUEST, reply=REPLY)
    assert "not kept" in caplog.text
