from pathlib import Path

import pytest

from agi_core.run.event_log import EventLog
from agi_core.run.events import ModelValidated, RoundFinished
from agi_core.run.scores import SiteScore
from server.tensorboard import write_scalars


def test_tensorboard_shows_each_site(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = EventLog(tmp_path)
    events.append(ModelValidated(round=0, mean={"psnr_db": 15.0}, sites={"A": SiteScore({"psnr_db": 15.0}, 2)}))
    for round in (1, 2):
        events.append(RoundFinished(round=round, sites=["A"], train_loss={"A": 0.5 / round}, seconds={"A": 3.0}))
    for _ in range(2):  # written anew, not added to
        folder = write_scalars(tmp_path)
    written = tensorboard.EventAccumulator(str(folder))
    written.Reload()
    assert set(written.Tags()["scalars"]) == {
        "train_loss/A",
        "seconds/A",
        "validation_psnr_db/A",
        "validation_psnr_db/all sites",
    }
    assert [(point.step, point.value) for point in written.Scalars("train_loss/A")] == [(1, 0.5), (2, 0.25)]
