from dataclasses import replace

import pytest

from server.status import CoordinatorStatus, RunStatus, SiteStatus
from server.status_text import status_text

RUN = RunStatus(
    name="first",
    state="running",
    round=2,
    rounds=6,
    validation_psnr_db=21.5,
    waiting_for=["A", "B"],
    answered=["C"],
    failed={"D": "out of memory"},
    refused={"E": ""},
    sitting_out={"F": "The budget is spent."},
    suppressed=["C", "G"],
    action="train",
)
IDLE = RunStatus("first", "paused", 2, 6, None, [], [], {}, {}, {}, [], reason="round 3: 1 of 2 sites")


def text_of(*, sites: dict[str, SiteStatus] | None = None, run: RunStatus | None = None) -> str:
    return status_text(CoordinatorStatus(alive=True, reachable=True, sites=sites or {}, run=run))


@pytest.mark.parametrize(
    ("alive", "reachable", "line"),
    [
        (True, True, "coordinator: running"),
        (False, True, "coordinator: running"),
        (
            *(True, False),
            "coordinator: alive, but it does not answer; see superlink.log, or stop it and start it again:"
            " python -m server up",
        ),
        (False, False, "coordinator: not running; start it with: python -m server up"),
    ],
)
def test_whether_the_coordinator_runs(alive: bool, reachable: bool, line: str) -> None:
    text = status_text(CoordinatorStatus(alive, reachable, {}, None))
    assert text.splitlines() == [
        line,
        "  no site is registered yet",
        "no run yet; start one with: python -m server submit",
    ]


def test_sites_stand_in_columns_and_refused_replies_below_them() -> None:
    sites = {
        "A": SiteStatus("online", "now", 40, 3),
        "hospitalB": SiteStatus("registered", None, None, 1),
    }
    assert text_of(sites=sites).splitlines()[1:-1] == [
        "  A          online      last seen now  40 subjects",
        "             3 refused replies; in quarantine; let it out with: python -m server release A",
        "  hospitalB  registered  last seen never",
        "             1 refused replies; forget with: python -m server release hospitalB",
    ]


def test_a_running_run_names_every_site_that_it_has_a_word_for() -> None:
    assert text_of(run=RUN).splitlines()[2:] == [
        "run first: running, round 2/6, validation 21.50 dB",
        "  waiting for (train): A, B",
        "  answered: C",
        "  failed: D (out of memory)",
        "  refused: E",
        "  sits out: F: The budget is spent.",
        "  figures suppressed by the site's policy: C, G",
    ]


def test_a_run_that_stands_says_why_and_how_to_go_on() -> None:
    lines = text_of(run=IDLE).splitlines()[2:]
    go_on = "  go on with: python -m server resume first"
    assert lines == ["run first: paused, round 2/6", "  round 3: 1 of 2 sites", go_on]
    stopped = replace(IDLE, state="interrupted", reason="")
    assert text_of(run=stopped).splitlines()[2:] == ["run first: interrupted, round 2/6", go_on]
    assert go_on not in text_of(run=replace(IDLE, state="finished", reason=None))


def test_earlier_runs_have_a_line_each() -> None:
    text = status_text(CoordinatorStatus(True, True, {}, RUN, [replace(IDLE, name="zero", state="finished")]))
    assert text.splitlines()[-1] == "run zero: finished, round 2/6"


def test_a_folder_without_a_coordinator_is_called_so() -> None:
    text = status_text(CoordinatorStatus(False, False, {}, None, exists=False))
    assert text.startswith("no coordinator in this folder; --dir names another one")
    assert "\n" not in text


def test_a_run_over_a_vocabulary_says_which_cell_it_trains() -> None:
    cells = {"T2:T1": "done", "T1:T2": "now", "PD:T2": "next"}
    assert text_of(run=replace(IDLE, cells=cells)).splitlines()[2:5] == [
        "run first: paused, cell 2 of 3, T1:T2, round 2/6",
        "  cells done: T2:T1",
        "  cells next: PD:T2",
    ]
    done = text_of(run=replace(IDLE, state="running", cells=dict.fromkeys(cells, "done")))
    assert "run first: running, 3 cells are trained\n" in done
