import http.server
import json
import sys
import threading
import time
from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.run import run_folder
from agi_core.run.event_log import EventLog
from agi_core.run.events import RunPaused
from server import notify, run_state
from server.coordinator import CoordinatorDir
from server.notify import News, tell, watching
from server.runs import FLOWER_RUN
from server.status import RunStatus, run_status

PAUSED = News("first", "paused", "round 2: 1 of 3 sites")


def test_a_command_gets_run_state_and_reason(tmp_path: Path) -> None:
    program = tmp_path / "notify.py"
    program.write_text("import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))")
    tell(f"'{sys.executable}' '{program}' '{tmp_path / 'told'}'", PAUSED)
    assert json.loads((tmp_path / "told").read_text()) == ["first", "paused", "round 2: 1 of 3 sites"]


def test_a_url_gets_them_as_json() -> None:
    told = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        tell(f"http://127.0.0.1:{server.server_port}/hook", PAUSED)
        thread.join()
    assert told == [{"run": "first", "state": "paused", "reason": "round 2: 1 of 3 sites"}]


def test_a_malformed_answer_is_printed_and_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(b"what is HTTP?\r\n\r\n")

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        tell(url, PAUSED)
        thread.join()
    assert f"warning: --notify {url} failed: what is HTTP?" in capfd.readouterr().out


@pytest.mark.parametrize("target", ["/nowhere/at/all", f"{sys.executable} -c 1/0", "'", "http://127.0.0.1:1/"])
def test_a_fault_is_printed_and_no_more(target: str, capfd: pytest.CaptureFixture[str]) -> None:
    tell(target, PAUSED)
    assert f"warning: --notify {target} failed: " in capfd.readouterr().out


def test_each_change_is_told_once_and_nothing_that_was_so_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LOOK_S", 0.02)
    coordinator, told = CoordinatorDir(tmp_path), list[News]()
    for name in ("old", "first"):
        run_folder.create(coordinator.runs_dir / name, load_config(None, overrides={}))
        (coordinator.runs_dir / name / FLOWER_RUN).write_text("7")
    run_dir = coordinator.runs_dir / "first"
    deadline = time.monotonic() + 60
    watching(coordinator, told.append)
    run_folder.create(coordinator.runs_dir / "new", load_config(None, overrides={}))  # submitted, and about to begin
    (coordinator.runs_dir / "new" / FLOWER_RUN).write_text("8")
    with run_state.holding(run_dir):
        EventLog(run_dir).append(RunPaused(round=1, reason="round 2: 1 of 3 sites"))
    while not told:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (run_dir / "summary.json").write_text("{}")
    while len(told) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert told == [PAUSED, News("first", "finished", "")]

    looked_at = list[str]()

    def look(run_dir: Path) -> RunStatus:
        looked_at.append(run_dir.name)
        return run_status(run_dir)

    monkeypatch.setattr(notify, "run_status", look)
    while "new" not in looked_at[1:]:  # two whole looks: the events of a finished run are not read again
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "first" not in looked_at
