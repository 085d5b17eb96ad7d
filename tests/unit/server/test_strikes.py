import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agi_core.errors import ConfigError, RunError
from server import strikes
from server.strikes import Strike


def test_three_strikes_quarantine_a_site_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / strikes.FILE
    assert strikes.quarantined(path) == []
    for count in (1, 2, 3):
        assert strikes.strike(path, "B", run=f"run{count}", round=1, reason="not finite") == count
        assert strikes.quarantined(path) == (["B"] if count == 3 else [])
    strikes.strike(path, "A", run="run3", round=2, reason="no weights")
    assert [forgotten.run for forgotten in strikes.release(path, "B")] == ["run1", "run2", "run3"]
    assert strikes.read(path) == {"A": [Strike("run3", 2, "no weights")]}
    assert json.loads(path.read_text()) == {"A": [{"run": "run3", "round": 2, "reason": "no weights"}]}


def test_two_runs_that_strike_at_once_lose_no_strike(tmp_path: Path) -> None:
    path = tmp_path / strikes.FILE

    def run(name: str) -> None:
        for round in range(30):
            strikes.strike(path, "A", run=name, round=round, reason="not finite")

    with ThreadPoolExecutor() as pool:
        list(pool.map(run, ["first", "second"]))
    assert len(strikes.read(path)["A"]) == 60


def test_a_site_without_strikes_cannot_be_released(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="B has no strikes; with strikes: no site"):
        strikes.release(tmp_path / strikes.FILE, "B")


@pytest.mark.parametrize("content", ["", "[]", '{"A": 3}', '{"A": [1]}', '{"A": [{"run": "r", "round": 1}]}'])
def test_a_damaged_file_is_named_and_not_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / strikes.FILE
    path.write_text(content)
    with pytest.raises(RunError, match=r"strikes.json is damaged .* restore it"):
        strikes.strike(path, "A", run="r", round=1, reason="x")
    assert path.read_text() == content
