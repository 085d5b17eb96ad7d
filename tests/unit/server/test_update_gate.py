import dataclasses
from typing import Any

import numpy as np
import pytest

from agi_core.errors import ProtocolError
from agi_core.protocol import Reply, Request, pack
from server.update_gate import admit, check_answer

WEIGHTS = {"w": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float32)}
REQUEST = Request("train", "run", 2, "nonce", "{}", "", 60, pack(WEIGHTS))
REPLY = Reply("run", 2, "nonce", 5, {"train_loss": 0.5, "seconds": 2.0}, pack(WEIGHTS))


def test_an_honest_reply_is_admitted() -> None:
    update = admit(REPLY, REQUEST, site="A")
    assert (update.site, update.num_examples) == ("A", 5)
    np.testing.assert_array_equal(update.weights["w"], WEIGHTS["w"])


@pytest.mark.parametrize(
    "change",
    [
        {"num_examples": 0},
        {"num_examples": -5},
        {"weights": None},
        {"weights": pack({"w": np.ones(1, np.float32), "b": WEIGHTS["b"]})},  # would broadcast
        {"weights": pack({"w": WEIGHTS["w"]})},
        {"weights": pack({**WEIGHTS, "extra": np.zeros(1, np.float32)})},
        {"weights": pack({name: array.astype(np.float64) for name, array in WEIGHTS.items()})},
        {"weights": pack({**WEIGHTS, "b": np.array([np.nan, 0], np.float32)})},
        {"weights": pack({**WEIGHTS, "b": np.array([np.inf, 0], np.float32)})},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        admit(dataclasses.replace(REPLY, **change), REQUEST, site="A")


def test_an_answer_to_the_request_is_known_by_its_nonce() -> None:
    check_answer(REPLY, REQUEST)
    for change in ({"run_id": "another"}, {"round": 1}, {"nonce": "stale"}):
        with pytest.raises(ProtocolError):
            check_answer(dataclasses.replace(REPLY, **change), REQUEST)  # type: ignore[arg-type]
