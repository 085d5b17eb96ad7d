import dataclasses

import numpy as np
import pytest

from agi_core.errors import ProtocolError
from agi_core.protocol import Reply, pack
from client.egress import leave


def reply(**metrics: float) -> Reply:
    return Reply("run", 1, "nonce", 3, metrics, None)


def test_allowed_metrics_leave_rounded() -> None:
    assert leave(reply(psnr_db=20.123456789, train_loss=0.1), private=False).metrics == {
        "psnr_db": 20.12346,
        "train_loss": 0.1,
    }


@pytest.mark.parametrize("metrics", [{"patient_age": 3.0}, {"psnr_db": float("nan")}, {"psnr_db": float("inf")}])
def test_nothing_else_leaves(metrics: dict[str, float]) -> None:
    with pytest.raises(ProtocolError):
        leave(reply(**metrics), private=False)


def test_no_metric_leaves_with_privately_trained_weights() -> None:
    weights = pack({"w": np.zeros(2)})
    trained = dataclasses.replace(reply(), weights=weights)
    assert leave(trained, private=True) == trained
    for name in ("train_loss", "seconds", "validation_psnr_db"):
        with pytest.raises(ProtocolError, match=f"{name} may not leave with privately"):
            leave(dataclasses.replace(reply(**{name: 1.0}), weights=weights), private=True)
