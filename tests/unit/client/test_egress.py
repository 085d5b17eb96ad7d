import pytest

from agi_core.errors import ProtocolError
from agi_core.protocol import Reply
from client.egress import leave


def reply(**metrics: float) -> Reply:
    return Reply("run", 1, "nonce", 3, metrics, None)


def test_allowed_metrics_leave_rounded() -> None:
    assert leave(reply(psnr_db=20.123456789, train_loss=0.1)).metrics == {"psnr_db": 20.12346, "train_loss": 0.1}


@pytest.mark.parametrize("metrics", [{"patient_age": 3.0}, {"psnr_db": float("nan")}, {"psnr_db": float("inf")}])
def test_nothing_else_leaves(metrics: dict[str, float]) -> None:
    with pytest.raises(ProtocolError):
        leave(reply(**metrics))
