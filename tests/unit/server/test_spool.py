"""Replies on disk: equal to what came, read a part at a time, and gone when nobody uses them."""

import dataclasses
import gc
import os
from pathlib import Path

import numpy as np
import pytest

from agi_core.errors import ProtocolError, RunError
from agi_core.protocol import Packed, Parts, Reply, Transport, Weights, pack, unpack
from server.spool import Spool

WEIGHTS: Weights = {
    "a": np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6),
    "b": np.arange(3, dtype=np.int64),
    "c": np.array(0.1),
    "d": np.empty((0, 4), np.uint8),
}
REPLY = Reply(run_id="run", round=2, nonce="nonce", num_examples=5, metrics={"seconds": 2.0}, weights=None)


def reply_of(weights: Weights, transport: Transport = "float32") -> Reply:
    return dataclasses.replace(REPLY, weights=pack(weights, transport))


def weights_of(reply: Reply) -> Packed:
    assert reply.weights is not None
    return reply.weights


@pytest.mark.parametrize("transport", ["float32", "float16"])
def test_a_kept_reply_is_the_reply(tmp_path: Path, transport: Transport) -> None:
    spool = Spool(tmp_path)
    replies = [reply_of({name: array + n for name, array in WEIGHTS.items()}, transport) for n in (0, 1)]
    for reply, kept in zip(replies, [spool.keep(reply) for reply in replies], strict=True):
        assert dataclasses.replace(kept, weights=None) == dataclasses.replace(reply, weights=None)
        assert weights_of(kept).transport == transport
        came, read = unpack(weights_of(reply)), unpack(weights_of(kept))
        assert [*read] == [*came]
        for name, array in came.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_a_reply_without_weights_stays_as_it_is(tmp_path: Path) -> None:
    assert Spool(tmp_path).keep(REPLY) is REPLY


def test_nothing_is_in_the_folder_and_the_file_is_closed_with_the_last_reply(tmp_path: Path) -> None:
    def open_here() -> int:
        gc.collect()
        links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        return sum(str(tmp_path) in os.readlink(link) for link in links if link.is_symlink())

    kept = Spool(tmp_path).keep(reply_of(WEIGHTS))
    assert [*tmp_path.iterdir()] == []
    assert open_here() == 1
    parts = Parts(weights_of(kept))
    del kept
    np.testing.assert_array_equal(parts["a"], WEIGHTS["a"])
    del parts
    assert open_here() == 0


def test_what_is_read_leaves_memory_with_its_last_view(tmp_path: Path) -> None:
    parts = Parts(weights_of(Spool(tmp_path).keep(reply_of({"w": np.ones(2**20, np.float32)}))))
    mapped = lambda: str(tmp_path) in Path("/proc/self/maps").read_text()  # noqa: E731
    part = parts["w"][5:9]
    assert mapped()
    np.testing.assert_array_equal(part, np.ones(4))
    del part
    assert not mapped()


@pytest.mark.parametrize("shape", [(0,), (3,)])
def test_a_hostile_dtype_without_bytes_ends_no_run(tmp_path: Path, shape: tuple[int, ...]) -> None:
    hostile = Packed({"float32": np.empty(shape, "V0")}, pack(WEIGHTS).manifest)
    with pytest.raises(ProtocolError, match="something else than numbers"):
        Parts(weights_of(Spool(tmp_path).keep(dataclasses.replace(REPLY, weights=hostile))))


def test_a_disk_that_takes_nothing_is_an_error_of_the_run_and_not_of_the_site() -> None:
    with pytest.raises(RunError, match=r"replies cannot be kept in /proc: "):
        Spool(Path("/proc")).keep(reply_of(WEIGHTS))
