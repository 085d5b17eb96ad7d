import dataclasses
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from agi_core.errors import RunError
from agi_core.host.hash_chain import Record, unseal
from client.border import audit
from client.border.audit import NAME, AuditRow, Decision, append, read, table

ROWS = [
    AuditRow(
        run="run",
        round=1,
        action="train",
        decision=Decision.ANSWERED,
        request="digest",
        left={"num_examples": 12, "steps": 40},
        held_back=("ssim",),
        weights_bytes=1200,
        weights_sha256="abcdef0123456789",
    ),
    AuditRow(run="run", round=2, action="train", decision=Decision.REFUSED, reason="not allowed"),
    AuditRow(run="run", round=2, action="evaluate all", decision=Decision.REFUSED, reason="not allowed"),
    AuditRow(run="run", round=2, action="train", decision=Decision.FAILED, reason="no memory"),
]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    for row in ROWS:
        append(tmp_path / "state", row)
    return tmp_path / "state"


def test_rows_come_back(state_dir: Path) -> None:
    rows = read(state_dir)
    assert [(r.run, r.round, r.action, r.decision, r.left, r.reason) for r in rows] == [
        (r.run, r.round, r.action, r.decision, r.left, r.reason) for r in ROWS
    ]
    assert read(state_dir.parent / "new") == []


def test_the_table_says_what_left_and_counts_refusals(state_dir: Path) -> None:
    lines = [" ".join(line.split()) for line in table(read(state_dir))]
    assert "round 1 train answered num_examples=12; steps=40; weights 1,200 bytes, sha256 abcdef012345;" in lines[0]
    assert lines[0].endswith("held back: ssim")
    assert lines[-2:] == ["4 messages left: 1 answered, 2 refused, 1 failed", "2 refused: not allowed"]


@pytest.mark.parametrize("damage", ["change", "drop", "swap", "insert"])
def test_a_damaged_chain_says_which_row(state_dir: Path, damage: str) -> None:
    path = state_dir / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    match damage:
        case "change":
            lines[2] = lines[2].replace(b"evaluate all", b"evaluate few")
        case "drop":
            del lines[2]
        case "swap":
            lines[2], lines[3] = lines[3], lines[2]
        case "insert":
            lines.insert(2, lines[1])
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match=r"audit\.jsonl: row 3 is damaged"):
        read(state_dir)
    before = path.read_bytes()
    with pytest.raises(RunError, match="row 3 is damaged"):  # and nothing more leaves
        append(state_dir, ROWS[0])
    assert path.read_bytes() == before


def test_the_rows_before_are_verified_once_and_after_any_change(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that keeps size and time of the file is seen too."""
    verified: list[int] = []

    def counting(line: bytes, *, n: int, previous: str) -> Record:
        verified.append(n)
        return unseal(line, n=n, previous=previous)

    monkeypatch.setattr(audit, "unseal", counting)
    for _ in range(3):
        append(state_dir, ROWS[0])
    assert verified == []
    path = state_dir / NAME
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"evaluate all", b"evaluate few"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(RunError, match="row 3 is damaged"):
        append(state_dir, ROWS[0])
    assert verified == [0, 1, 2]


def test_answers_with_figures_are_counted_as_they_leave(state_dir: Path) -> None:
    """An answer that leaves again counts once, and so it does where all rows are read again."""
    now_s = time.time()
    figures = {"num_examples": 12, "psnr_db": 20.0}
    for request in ("r1", "r2", "r1"):
        row = AuditRow(run="run", round=1, action="evaluate", decision=Decision.ANSWERED)  # of now, unlike ROWS
        append(state_dir, dataclasses.replace(row, request=request, model="m", left=figures))
    counted = [audit.told(state_dir)]
    (state_dir / NAME).touch()
    counted += [audit.told(state_dir)]
    for told in counted:
        assert (told.requests, told.of_model) == ({"r1", "r2"}, {"m": 2})
        assert (told.since(now_s - 60), told.since(now_s + 60)) == (2, 0)
    assert counted[0] is not counted[1]


def test_a_line_that_a_crash_cut_short_is_taken_away(state_dir: Path) -> None:
    path = state_dir / NAME
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines()[0][:50])
    append(state_dir, ROWS[0])
    assert len(read(state_dir)) == 5


def _append_ten(state_dir: Path) -> None:
    for _ in range(10):
        append(state_dir, ROWS[0])


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=_append_ten, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert len(read(tmp_path)) == 20


def test_every_row_names_the_hash_of_the_one_before(state_dir: Path) -> None:
    lines = [json.loads(line) for line in (state_dir / NAME).read_text().splitlines()]
    assert [line["previous"] for line in lines] == ["", *(line["hash"] for line in lines[:-1])]
    assert audit.NAME == "audit.jsonl"
