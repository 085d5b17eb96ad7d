"""The study that a request about a cell names: which tasks and which runs are of it."""

from dataclasses import replace

import pytest

from agi_core.cells import parse_vocabulary
from agi_core.config.load import task_json
from agi_core.config.schema import PrivacyConfig, Task, TrainingConfig
from agi_core.errors import ProtocolError
from agi_core.experts import pair_task
from agi_core.protocol import EVALUATE
from agi_core.scenario import parse_scenario
from agi_core.study import WholeStudy
from tests.support.requests_by_hand import small_task, training_request

WHOLE = Task(scenario="T1,T2,PD:any", training=TrainingConfig(local_steps=20), privacy=PrivacyConfig(epsilon=8))
STUDY = WholeStudy("first-0123", task_json(WHOLE))
CELL = replace(
    WHOLE,
    scenario="T1,T2:PD",
    reference="T1",
    training=replace(WHOLE.training, local_steps=10, align_target=True),
    privacy=replace(WHOLE.privacy, epsilon=4.0),
)


def test_a_cell_has_a_share_of_the_studys_steps_and_budget_and_a_reference_of_its_own() -> None:
    STUDY.check_cell(CELL)
    pair = pair_task([replace(CELL, scenario="T1:PD", reference="T1"), CELL], parse_vocabulary(WHOLE.scenario))
    STUDY.check_cell(pair)  # as a blend asks


@pytest.mark.parametrize(
    "other",
    [
        replace(CELL, scenario="T1,T2:FLAIR"),
        replace(CELL, scenario="T1,T2,PD:any"),
        replace(CELL, rounds=7),
        replace(CELL, training=replace(CELL.training, local_steps=21)),
        replace(CELL, training=replace(CELL.training, learning_rate=0.1)),
        replace(CELL, privacy=replace(CELL.privacy, epsilon=9.0)),
        replace(CELL, privacy=replace(CELL.privacy, epsilon=None)),
        replace(CELL, privacy=replace(CELL.privacy, lot_rate=1.0)),
    ],
)
def test_any_other_task_is_none_of_the_study(other: Task) -> None:
    with pytest.raises(ProtocolError, match="is none of the study over T1,T2,PD:any"):
        STUDY.check_cell(other)


def test_a_cell_has_one_run() -> None:
    run = "first-0123/T1,T2:PD"
    assert STUDY.run_of(parse_scenario(CELL.scenario)) == run
    trains = training_request(*small_task())
    STUDY.check_run(replace(trains, run_id=run), CELL)
    for other in ("first-0123", "first-0123/T1:PD", "first-0124/T1,T2:PD", f"{run} again"):
        with pytest.raises(ProtocolError, match="about T1,T2:PD comes in the name of another run"):
            STUDY.check_run(replace(trains, run_id=other), CELL)


def test_a_question_about_several_experts_comes_in_the_name_of_one_of_their_cells() -> None:
    asks = replace(
        training_request(*small_task()), run_id="first-0123/T1:PD", subjects="disagreement T1:PD@T1 T2:PD@T2"
    )
    STUDY.check_run(replace(asks, action=EVALUATE), CELL)
    with pytest.raises(ProtocolError, match="another run"):
        STUDY.check_run(asks, CELL)  # training is of one cell, whatever else it says
    with pytest.raises(ProtocolError, match="another run"):
        STUDY.check_run(replace(asks, action=EVALUATE, run_id="first-0123/T1:FLAIR"), CELL)


def test_a_run_of_one_scenario_has_no_cells() -> None:
    with pytest.raises(ProtocolError, match="none of the study"):
        WholeStudy("first", task_json(CELL)).check_cell(CELL)


@pytest.mark.parametrize("text", ["{", "[]", '{"run": 1, "task": ""}', "[" * 100_000])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    request = replace(training_request(*small_task()), study=text)
    with pytest.raises(ProtocolError, match="cannot be read"):
        WholeStudy.of(request)
    assert WholeStudy.of(replace(request, study=STUDY.text)) == STUDY
