"""The ledger against crashes, damage, backups, second folders and second processes. Real files, real SIGKILL."""

import json
import math
import os
import random
import shutil
import signal
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from agi_core.errors import BudgetError, BusyError, PolicyError, PrivacyError, RunError
from agi_core.host import lock
from agi_core.host.hash_chain import seal
from agi_core.privacy import ledger as ledger_module
from agi_core.privacy.accounting import ORDERS, Steps, epsilon, epsilon_rdp
from agi_core.privacy.ledger import Budget, Ledger, Reservation, open_ledger

SUBJECTS = ("IXI001", "IXI002", "IXI003")
ONE = Steps(2.0, 0.1, 10)
LARGE = Budget(1e9, 1e-5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.jsonl"


@pytest.fixture
def head_path(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "head.json"


@pytest.fixture
def steps_as_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epsilon = number of steps, for tests that are not about the accountant."""

    def count(history: Iterable[Steps], *, delta: float) -> float:
        return float(sum(steps.steps for steps in history))

    monkeypatch.setattr(ledger_module, "epsilon", count)


@pytest.fixture
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For speed, where processes die but the machine does not."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def reserve(
    ledger: Ledger, steps: Steps = ONE, *, round: int = 1, subjects: Iterable[str] = SUBJECTS, budget: Budget = LARGE
) -> Reservation:
    return ledger.reserve(tuple(subjects), steps, run="run", round=round, request="digest", budget=budget)


def spend(path: Path, head_path: Path, *, rounds: int = 1) -> None:
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        for round in range(rounds):
            ledger.commit(reserve(ledger, round=round), reply="")


def spent(path: Path, head_path: Path, subjects: Iterable[str] = SUBJECTS, *, site: str = "Guys") -> list[Steps]:
    with open_ledger(path, head_path=head_path, site=site) as ledger:
        return ledger.spent(tuple(subjects))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, path: Path, head_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=rf"privacy ledger {tmp_path}/file: File exists; keep it"):
        spend(tmp_path / "file" / "ledger.jsonl", head_path)
    spend(path, head_path)
    path.with_suffix(".key").unlink()
    path.with_suffix(".key").mkdir()
    with pytest.raises(RunError, match=r"privacy ledger .*/ledger\.key: Is a directory; keep it"):
        spend(path, head_path)


def test_an_error_of_the_block_is_no_error_of_the_ledger(path: Path, head_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_ledger(path, head_path=head_path, site="Guys"):
        Path("/nowhere").read_bytes()


def test_what_was_spent_is_there_after_reopening(path: Path, head_path: Path) -> None:
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        first, _, third = (reserve(ledger, ONE._replace(steps=n), round=n) for n in (1, 2, 3))
        ledger.commit(first, reply="abc")
    head = head_path.read_text()
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        assert head_path.read_text() == head
        assert ledger.spent(SUBJECTS) == [ONE._replace(steps=n) for n in (1, 2, 3)]
        assert [(r.id, r.status, r.reply, r.request) for r in ledger.find("run", 1)] == [
            (first.id, "committed", "abc", "digest")
        ]
        assert [r.status for n in (2, 3) for r in ledger.find("run", n)] == ["reserved", "reserved"]
        assert ledger.find("other", 1) == []
        ledger.commit(third, reply="")  # the process that reserved it is not needed


def test_what_is_committed_stays_committed(path: Path, head_path: Path) -> None:
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        reservation = reserve(ledger)
        ledger.commit(reservation, reply="")
        with pytest.raises(PrivacyError, match="stays so"):
            ledger.commit(reservation, reply="")


def test_what_an_earlier_release_took_back_counts_too(path: Path, head_path: Path) -> None:
    """It released the steps of a failure, which had told the coordinator something of them."""
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        reservation = reserve(ledger)
    *_, last = map(json.loads, path.read_text().splitlines())
    line = seal({"kind": "released", "id": reservation.id}, n=last["n"] + 1, previous=last["hash"])
    path.write_text(path.read_text() + line + "\n")
    assert spent(path, head_path) == [ONE]


def test_the_budget_is_refused_before_anything_is_spent(path: Path, head_path: Path) -> None:
    budget = Budget(epsilon([ONE, ONE], delta=1e-5), 1e-5)
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        reserve(ledger, round=1, budget=budget)
        reserve(ledger, round=2, budget=budget)  # exactly at the budget
        before = path.read_bytes()
        with pytest.raises(BudgetError, match=r"round 3 would bring epsilon from .* above the budget") as refusal:
            reserve(ledger, round=3, budget=budget)
        assert path.read_bytes() == before
        assert refusal.value.public == "The site's privacy budget is exhausted."
        with pytest.raises(PrivacyError, match="no privacy guarantee"):
            reserve(ledger, ONE._replace(noise_multiplier=0.0))


def test_subjects_carry_their_spend_into_other_data_sets(path: Path, head_path: Path) -> None:
    a, b, c = ONE._replace(steps=1), ONE._replace(steps=2), ONE._replace(steps=4)
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        reserve(ledger, a, subjects=["1", "2"])
        reserve(ledger, b, subjects=["3", "4"])
        assert ledger.spent(["1", "5"]) == [a]  # a scan was added, another taken out
        assert ledger.spent(["5", "6"]) == []
        assert ledger.spent(["2", "3"]) == [a, b]
        reserve(ledger, c, subjects=["4", "5"])
        assert ledger.spent(["5"]) == [b, c]  # and what 4 had spent with 3
        assert ledger.spent(["1"]) == [a]
        assert ledger.spent(["2", "1"]) == [a]  # the same set in another order


def test_subject_ids_do_not_stand_in_the_ledger(path: Path, head_path: Path) -> None:
    spend(path, head_path)
    assert not any(subject in path.read_text() for subject in SUBJECTS)
    assert stat.S_IMODE(path.with_suffix(".key").stat().st_mode) == 0o600
    spend(path.parent.parent / "other" / "ledger.jsonl", head_path.parent / "other.json")
    lines = [(p / "ledger.jsonl").read_text().splitlines()[1] for p in (path.parent, path.parent.parent / "other")]
    assert lines[0] != lines[1]  # another key, other hashes


@pytest.mark.parametrize("line", range(4))
def test_every_damaged_byte_stops_the_site(path: Path, head_path: Path, line: int) -> None:
    spend(path, head_path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    start = sum(len(row) for row in lines[:line])
    for position in range(start, start + len(lines[line]), 3):
        damaged = bytearray(b"".join(lines))
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(PrivacyError, match="private training stops"):
            spent(path, head_path)
        assert path.read_bytes() == damaged  # and nothing was repaired
    path.write_bytes(b"".join(lines))
    assert spent(path, head_path) == [ONE]


def test_a_ledger_cut_anywhere_stops_the_site(path: Path, head_path: Path) -> None:
    spend(path, head_path, rounds=2)
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(PrivacyError, match="private training stops"):
            spent(path, head_path)
    for rows in ([0, 1, 3, 2], [0, 1, 2, 2, 3], [0, 2, 3]):  # swapped, doubled, left out
        lines = content.splitlines(keepends=True)
        path.write_bytes(b"".join(lines[row] for row in rows))
        with pytest.raises(PrivacyError, match="private training stops"):
            spent(path, head_path)


def test_a_line_that_a_crash_cut_short_never_counted(path: Path, head_path: Path) -> None:
    """Power fails within the append, at every byte: nobody was told of the line, so what stood before counts."""
    spend(path, head_path)
    before, head = path.read_bytes(), head_path.read_bytes()
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        reserve(ledger, ONE._replace(steps=5), round=2)
    after = path.read_bytes()
    for size in range(len(before), len(after)):
        path.write_bytes(after[:size])
        head_path.write_bytes(head)
        assert spent(path, head_path) == [ONE]
        assert path.read_bytes() == before
    path.write_bytes(after)  # the whole line, but not yet the copy
    head_path.write_bytes(head)
    assert spent(path, head_path) == [ONE, ONE._replace(steps=5)]


def test_a_restored_backup_stops_the_site(path: Path, head_path: Path) -> None:
    spend(path, head_path)
    shutil.copytree(path.parent, path.parent.with_name("backup"))
    spend(path, head_path)
    shutil.rmtree(path.parent)
    path.parent.with_name("backup").rename(path.parent)
    with pytest.raises(PrivacyError, match=r"4 lines where 6 were written.*restored from a backup"):
        spent(path, head_path)


def test_a_second_folder_stops_the_site(path: Path, head_path: Path) -> None:
    """Each of two copies spends in turn: the one that did not see the last spending is stopped, now and later on."""
    spend(path, head_path)
    second = path.parent.with_name("second") / path.name
    shutil.copytree(path.parent, second.parent)
    spend(second, head_path)
    for _ in range(2):
        with pytest.raises(PrivacyError, match="second folder"):
            spend(path, head_path)
    assert spent(second, head_path) == [ONE, ONE]


def test_an_empty_second_folder_stops_the_site(path: Path, head_path: Path) -> None:
    spend(path, head_path)
    with pytest.raises(PrivacyError, match="missing, while its copy"):
        spent(path.parent.with_name("new") / path.name, head_path)


def test_a_foreign_ledger_stops_the_site(path: Path, head_path: Path) -> None:
    spend(path, head_path)
    with pytest.raises(PrivacyError, match="ledger of site Guys, not of HH"):
        spent(path, head_path, site="HH")
    other, other_head = path.parent.with_name("other") / path.name, head_path.with_name("other.json")
    spend(other, other_head, rounds=3)
    with pytest.raises(PrivacyError, match="not the ledger"):
        spent(other, head_path)  # longer, and of the same site, but another one
    shutil.copy(other.with_suffix(".key"), path.with_suffix(".key"))
    with pytest.raises(PrivacyError, match="not the key"):
        spent(path, head_path)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[]\n", b"\xff\xfe\n", b"null\n"])
def test_another_file_is_no_ledger(path: Path, head_path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.with_suffix(".key").write_bytes(bytes(32))
    path.write_bytes(content)
    with pytest.raises(PrivacyError, match="private training stops"):
        spent(path, head_path)


@pytest.mark.parametrize("content", [None, "", "[]", '{"length": 4}', '{"length": "4", "head": ""}', "\xff"])
def test_a_lost_or_broken_copy_stops_the_site(path: Path, head_path: Path, content: str | None) -> None:
    spend(path, head_path)
    head_path.unlink() if content is None else head_path.write_bytes(content.encode("latin-1"))
    with pytest.raises(PrivacyError, match="private training stops"):
        spent(path, head_path)


def test_a_lost_key_stops_the_site(path: Path, head_path: Path) -> None:
    spend(path, head_path)
    path.with_suffix(".key").unlink()
    with pytest.raises(PrivacyError, match="key of its subject hashes, is missing"):
        spent(path, head_path)


def test_a_busy_ledger_is_waited_for(path: Path, head_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found_busy = threading.Event()

    def take(file: IO[str]) -> bool:
        taken = lock.take(file)
        if not taken:
            found_busy.set()
        return taken

    with ThreadPoolExecutor() as pool:
        with open_ledger(path, head_path=head_path, site="Guys") as ledger:
            monkeypatch.setattr(ledger_module, "take", take)
            waiting = pool.submit(spent, path, head_path)
            assert found_busy.wait(timeout=60)
            reserve(ledger)
        assert waiting.result(timeout=60) == [ONE]


def test_two_processes_cannot_hold_it_at_once(path: Path, head_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "BUSY_S", 0.2)
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        reserve(ledger)
        child = os.fork()
        if child == 0:
            try:
                spend(path, head_path)
            except BusyError as error:
                os._exit(0 if "in use by another process" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert spent(path, head_path) == [ONE]


def test_a_full_disk_reserves_nothing(path: Path, head_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spend(path, head_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with open_ledger(path, head_path=head_path, site="Guys") as ledger, monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="disk is full"):
            reserve(ledger, round=2)
    assert spent(path, head_path) == [ONE]


def test_tests_are_counted_over_restarts(path: Path, head_path: Path) -> None:
    def test(run: str, request: str = "model") -> None:
        with open_ledger(path, head_path=head_path, site="Guys") as ledger:
            ledger.reserve(SUBJECTS, ONE, run=run, round=1, request="digest", budget=LARGE)
            ledger.allow_test(run=run, request=request, most=2)

    for run in ("one", "two", "one"):
        test(run)
    with pytest.raises(BudgetError, match="2 runs had a test"):
        test("three")
    with pytest.raises(PolicyError, match="of another model"):
        test("two", "another")
    with open_ledger(path, head_path=head_path, site="Guys") as ledger, pytest.raises(PolicyError, match="not trained"):
        ledger.allow_test(run="four", request="model", most=9)


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.usefixtures("steps_as_epsilon")
def test_a_crash_at_any_write_never_under_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Before and after each fsync and each rename of: make the ledger, reserve, commit, reserve, reserve."""
    calls, crash_at = 0, 0

    def crashing(real: object) -> object:
        def call(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == crash_at and moment == "before":
                raise Crash
            result = real(*arguments)  # type: ignore[operator]
            if calls == crash_at:
                raise Crash
            return result

        return call

    finished = False
    while not finished:
        calls, crash_at = 0, crash_at + 1
        path, head_path = tmp_path / str(crash_at) / "ledger.jsonl", tmp_path / f"{crash_at}.json"
        told: list[int] = []  # steps of the reservations that this process knew of
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", crashing(os.fsync))
            patched.setattr(Path, "replace", crashing(Path.replace))
            try:
                with open_ledger(path, head_path=head_path, site="Guys") as ledger:
                    first = reserve(ledger, ONE._replace(steps=1))
                    told.append(1)
                    ledger.commit(first, reply="")
                    reserve(ledger, ONE._replace(steps=2), round=2)
                    told.append(2)
                    reserve(ledger, ONE._replace(steps=4), round=3)
                    told.append(4)
                finished = True
            except Crash:
                pass
        counted = sorted(steps.steps for steps in spent(path, head_path))
        assert set(told) <= set(counted)
        assert len(counted) <= len(told) + 1  # at most the one under way is counted too much
        spend(path, head_path)  # and the site goes on
    assert crash_at > 20


@pytest.mark.parametrize("kills", [40, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("steps_as_epsilon", "without_fsync")
def test_kills_never_under_count(tmp_path: Path, kills: int) -> None:
    """A child spends as fast as it can and says what it knows; SIGKILL at a random moment; nothing it knew is lost."""
    rng = random.Random(0)
    told_in_all = 0
    for kill in range(kills):
        if kill % 20 == 0:
            path, head_path = tmp_path / str(kill) / "ledger.jsonl", tmp_path / f"{kill}.json"
            known: dict[str, str] = {}  # reservation -> last thing that was said about it
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            spend_and_tell(path, head_path, writing)
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as told:
            lines = [told.readline() for _ in range(rng.choice([0, 1, 2, 5, 9]))]
            time.sleep(rng.uniform(0, 0.003))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for line in [*lines, *told.readlines()]:
                if line.endswith(b"\n"):
                    word, reservation = line.decode().split()
                    known[reservation] = word
                    told_in_all += 1
        with open_ledger(path, head_path=head_path, site="Guys") as ledger:
            status = {r.id: r.status for r in ledger.find("run", 1)}
            counted = len(ledger.spent(SUBJECTS))
        assert all(status[r] == "committed" for r, word in known.items() if word == "committed")
        assert known.keys() <= status.keys()
        assert counted == len(status)
    assert told_in_all > 3 * kills


def spend_and_tell(path: Path, head_path: Path, writing: int) -> None:
    """In the child, until it is killed."""
    try:
        with open_ledger(path, head_path=head_path, site="Guys") as ledger:
            while True:
                reservation = reserve(ledger)
                os.write(writing, f"reserved {reservation.id}\n".encode())
                if int(reservation.id, 16) % 3:
                    ledger.commit(reservation, reply="")
                    os.write(writing, f"committed {reservation.id}\n".encode())
    finally:
        os._exit(1)


KINDS = (Steps(4.0, 1.0, 1), Steps(2.0, 0.5, 2))
ODD = [
    *(Steps(sigma, 0.5, 2) for sigma in (0.0, -1.0, math.nan, math.inf)),
    *(Steps(2.0, rate, 2) for rate in (0.0, 1.5, math.nan)),
    *(Steps(2.0, 0.5, steps) for steps in (0, -3)),
]
HUGE = Steps(0.05, 1.0, 2**62)
EVENTS = st.tuples(
    st.one_of(st.sampled_from(KINDS), st.sampled_from([*ODD, HUGE])),
    st.sets(st.sampled_from("abcd"), min_size=1),
    st.sampled_from(["committed", "failed", "killed", "torn", "asked again"]),
)
SCHEDULES = st.tuples(st.lists(EVENTS, min_size=1, max_size=8), st.sampled_from([1.5, 2.5, 4.0]))
Schedule = tuple[list[tuple[Steps, set[str], str]], float]


def follow(schedule: Schedule, folder: Path) -> tuple[dict[str, list[Steps]], dict[str, list[Steps]]]:
    """What happened to each subject under a coordinator that asks for anything, and what the ledger tells of it."""
    events, most = schedule
    path, head_path, happened = folder / "ledger" / "l.jsonl", folder / "head.json", dict[str, list[Steps]]()
    for number, (steps, subjects, end) in enumerate(events):
        with open_ledger(path, head_path=head_path, site="Guys") as ledger:
            before, round = path.read_bytes(), number // 2  # two requests of one round, with other settings
            try:
                reservation = reserve(ledger, steps, round=round, subjects=subjects, budget=Budget(most, 1e-5))
            except (BudgetError, PrivacyError):
                assert path.read_bytes() == before
                continue
            for subject in subjects:
                happened.setdefault(subject, []).append(steps)
            if end in ("committed", "asked again"):
                ledger.commit(reservation, reply="reply")
            if end == "asked again":  # it gets what is stored, and takes no step
                assert reservation.id in {r.id for r in ledger.find("run", round) if r.status == "committed"}
        if end == "torn":
            path.write_bytes(path.read_bytes() + b'{"kind":"committed","id"')
    with open_ledger(path, head_path=head_path, site="Guys") as ledger:
        return happened, {subject: ledger.spent([subject]) for subject in happened}


@lru_cache(maxsize=1024)
def epsilon_apart(history: tuple[Steps, ...], accountant: type[PLDAccountant | RdpAccountant]) -> float:
    """By dp-accounting."""
    account = accountant(ORDERS) if accountant is RdpAccountant else accountant()
    for sigma, rate, steps in history:
        account.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), steps)
    return float(account.get_epsilon(1e-5))


@settings(deadline=None, max_examples=200, derandomize=True)
@given(SCHEDULES)
def test_two_hundred_hostile_schedules_never_cost_more_than_is_told(schedule: Schedule) -> None:
    """By Renyi divergences, here and there, because they take no time."""
    check(schedule, epsilon_rdp, RdpAccountant)


@pytest.mark.slow
@settings(deadline=None, max_examples=10_000, derandomize=True)
@given(SCHEDULES)
def test_ten_thousand_hostile_schedules_never_cost_more_than_is_told(schedule: Schedule) -> None:
    """By the accountant of the ledger, and by privacy loss distributions apart from it."""
    check(schedule, epsilon, PLDAccountant)


def check(schedule: Schedule, ours: Callable[..., float], accountant: type[PLDAccountant | RdpAccountant]) -> None:
    """Each subject's own steps, counted apart, cost at most what the ledger tells, and that is within the budget."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        patched.setattr(ledger_module, "epsilon", ours)
        happened, told = follow(schedule, Path(folder))
        for subject, history in happened.items():
            apart = epsilon_apart(tuple(sorted(history)), accountant)
            assert apart * (1 - 1e-3) <= ours(told[subject], delta=1e-5) <= schedule[1]
            assert not Counter(history) - Counter(told[subject])
