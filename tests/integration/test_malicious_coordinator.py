"""Requests that an honest coordinator would not send, to the installed ClientApp of a hospital: each is refused with
one public sentence, counted in the audit, and changes nothing."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, MessageType

from agi_core.config.load import read_task
from agi_core.errors import AgiError, BudgetError, ConfigError, DeadlineError, PolicyError, ProtocolError
from agi_core.network import Network
from agi_core.protocol import ALL, EVALUATE, SCALARS, TEST, VALIDATION, Request, Weights
from agi_core.run.own_weights import own_weights_path
from client.__main__ import main
from client.border import audit
from client.site.file import read_site
from tests.support.requests_by_hand import (
    as_message,
    ask,
    deployed_site,
    metrics,
    reason,
    small_task,
    trained,
    training_request,
)
from tests.support.small_data import write_ixi

RULES = """\
policy:
  scenarios: ["T1,T2:PD"]
  settings: {rounds: 10}
privacy:
  epsilon: 8
  delta: 1.0e-5
  subjects: 9
  min_noise_multiplier: 1.0
  max_grad_norm: 1.0
  max_lot_rate: 0.5
  ledger: state/privacy/ledger.jsonl
  ledger_head: head.json
"""
PRIVATE = ("privacy.epsilon=8", "privacy.noise_multiplier=3.0", "privacy.slices_per_subject=1")
TASK, WEIGHTS = small_task(*PRIVATE)


@pytest.fixture(scope="module")
def site_path(tmp_path_factory: pytest.TempPathFactory, ixi_dir: Path) -> Path:
    """A hospital that trains privately, with one honest round behind it."""
    path = deployed_site(tmp_path_factory.mktemp("hospital"), ixi_dir, rules=RULES)
    reply = ask(path, as_message(training_request(TASK, WEIGHTS)))
    assert not reply.has_error(), reason(reply)
    assert metrics(reply) == {}
    assert reply.content.config_records[SCALARS]["num_examples"] == 9
    return path


def asking(*settings: str) -> Callable[[], Message]:
    """A training request whose task has these settings as well; a later one wins."""
    return lambda: as_message(training_request(small_task(*PRIVATE, *settings)[0], WEIGHTS))


def task_with(**changed: Any) -> Callable[[], Message]:
    """A training request whose task's JSON was changed by hand."""
    return lambda: as_message(training_request(json.dumps({**json.loads(TASK), **changed}), WEIGHTS, round=2))


def evaluation(subjects: str, *, run: str = "run", task: str = TASK, weights: Weights = WEIGHTS) -> Request:
    request = training_request(task, weights)
    return dataclasses.replace(request, action=EVALUATE, subjects=subjects, run_id=run)


def figures(site_path: Path, request: Request) -> dict[str, Any]:
    """All numbers of an answer, and what is held back."""
    reply = ask(site_path, as_message(request))
    scalars = reply.content.config_records[SCALARS]
    return {**metrics(reply), **{name: scalars[name] for name in ("num_examples", "suppressed")}}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (task_with(privacy={}), PolicyError),  # no noise at all
        (asking("privacy.noise_multiplier=0.1"), PolicyError),
        (asking("privacy.noise_multiplier=null", "rounds=1"), PolicyError),  # epsilon 8 in one round: little noise
        (asking("privacy.epsilon=100"), PolicyError),
        (asking("privacy.delta=0.1"), PolicyError),
        (asking("privacy.max_grad_norm=1e9"), PolicyError),
        (asking("privacy.lot_rate=1.0"), PolicyError),
        (asking("rounds=11"), PolicyError),
        # lots of somebody would fail, empty ones would not
        (task_with(privacy={**json.loads(TASK)["privacy"], "slices_per_subject": 2**62}), ConfigError),
        # lots of many would miss the deadline, small ones would not
        (asking("privacy.noise_multiplier=9000", "training.local_steps=100000"), DeadlineError),
        (asking("scenario=T1:PD"), PolicyError),
        (task_with(commands="rm"), ConfigError),
        (task_with(evaluation={"metrics": ["patient_age"]}), ConfigError),
        (lambda: as_message(training_request(TASK, WEIGHTS), metrics="patient_age"), ProtocolError),
        (lambda: as_message(evaluation(ALL)), PolicyError),
        (lambda: as_message(evaluation("IXI100")), ProtocolError),  # on one subject, by name
        (lambda: as_message(evaluation(TEST, run="another")), PolicyError),  # a run that did not train here
        (lambda: Message(as_message(training_request(TASK, WEIGHTS)).content, 2, MessageType.QUERY), ProtocolError),
    ],
)
def test_what_is_refused_is_counted_and_changes_nothing(
    site_path: Path, message: Callable[[], Message], error: type[AgiError]
) -> None:
    site = read_site(site_path)
    assert site.privacy is not None
    ledger_path, state_dir = Path(site.privacy.ledger), Path(site.state_dir)
    before, rows = ledger_path.read_bytes(), audit.read(state_dir)
    answer = message()
    answer.metadata.__dict__["_message_id"] = "1"
    reply = ask(site_path, answer)
    assert reply.has_error()
    assert reason(reply) == error.public
    *earlier, refused = audit.read(state_dir)
    assert earlier == rows
    assert (refused.decision, refused.reason, refused.left) == ("refused", error.public, {})
    assert ledger_path.read_bytes() == before


def test_a_round_is_one_of_the_task(site_path: Path) -> None:
    """Of two. In round -1000 a step has a rate of any size. Questions come before round 1, and about the model that the
    site trains alone: one more than the task has rounds, after the last."""
    site = read_site(site_path)
    assert site.privacy is not None
    before = Path(site.privacy.ledger).read_bytes()
    training, question = training_request(TASK, WEIGHTS), evaluation(VALIDATION)
    for request, round in ((training, -1000), (training, 0), (training, 3), (question, -1), (question, 6)):
        reply = ask(site_path, as_message(dataclasses.replace(request, round=round)))
        assert reply.has_error(), round
        assert reason(reply) == ProtocolError.public
    assert Path(site.privacy.ledger).read_bytes() == before
    for round in (0, 5):
        assert not ask(site_path, as_message(dataclasses.replace(question, round=round))).has_error()


def test_a_test_is_told_once_per_run_and_model_and_validation_never(
    site_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repeated evaluation on chosen weights is a differencing attack."""
    chosen = {name: array + 1 for name, array in WEIGHTS.items()}
    first = ask(site_path, as_message(evaluation(TEST)))
    assert metrics(first)["psnr_db"] > 0
    assert first.content.config_records[SCALARS]["num_examples"] == 2
    again = ask(site_path, as_message(dataclasses.replace(evaluation(TEST), nonce="m")))
    assert metrics(again) == metrics(first)
    for request in (evaluation(TEST, weights=chosen), dataclasses.replace(evaluation(TEST), round=2)):
        assert reason(ask(site_path, as_message(request))) == PolicyError.public
    for weights in (WEIGHTS, chosen):
        reply = ask(site_path, as_message(evaluation(VALIDATION, weights=weights)))
        assert metrics(reply) == {}

    assert main(["--site-file", str(site_path), "--audit"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"refused: {PolicyError.public}" in printed
    assert "The chain is whole" in printed
    path = Path(read_site(site_path).state_dir) / audit.NAME
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"decision":"refused"', b'"decision":"ignored"', 1))
    assert main(["--site-file", str(site_path), "--audit"]) == 1
    assert "is damaged, or not the one" in capsys.readouterr().err
    path.write_bytes(content)


def test_after_all_that_the_honest_run_goes_on(site_path: Path) -> None:
    first = ask(site_path, as_message(training_request(TASK, WEIGHTS)))
    assert len(audit.read(Path(read_site(site_path).state_dir))) > 1
    again = ask(site_path, as_message(training_request(TASK, WEIGHTS, nonce="again")))
    assert trained(again) == trained(first)  # the stored reply: no new noise, no new spend
    site = read_site(site_path)
    assert site.privacy is not None
    kinds = [json.loads(line)["kind"] for line in Path(site.privacy.ledger).read_text().splitlines()]
    assert [kind for kind in kinds if kind != "tested"] == ["opened", "subjects", "reserved", "committed"]


def test_the_lifetime_budget_outlives_a_run(tmp_path: Path, ixi_dir: Path) -> None:
    """Another run of the same cost is refused in its first round, though its own budget is fresh."""
    path = deployed_site(tmp_path, ixi_dir, rules=RULES.replace("epsilon: 8", "epsilon: 4"))
    task, _ = small_task("privacy.epsilon=4", "privacy.noise_multiplier=1.2", "privacy.slices_per_subject=1")
    request = training_request(task, WEIGHTS)
    assert not ask(path, as_message(request)).has_error()
    refused = ask(path, as_message(dataclasses.replace(request, run_id="another")))
    assert reason(refused) == "The site's privacy budget is exhausted."


@pytest.mark.slow
def test_tests_are_counted_for_the_life_of_the_data(tmp_path: Path, ixi_dir: Path) -> None:
    """The attack: a run with so much noise that its round costs nothing gets an exact figure of a chosen model. The
    site's own last layer leaves nobody anything, so a run that gets no figure leaves the site one all the same."""
    path = deployed_site(tmp_path, ixi_dir, rules=f"{RULES}  max_tests: 2\n")
    task, _ = small_task(*PRIVATE, "privacy.noise_multiplier=9000", "training.local_steps=1", "personal=head")
    told = []
    for run in "abcb":
        assert not ask(path, as_message(dataclasses.replace(training_request(task, WEIGHTS), run_id=run))).has_error()
        told.append(ask(path, as_message(evaluation(TEST, run=run, task=task))))
    assert [bool(metrics(reply)) for reply in told] == [True, True, False, True]
    assert all(own_weights_path(tmp_path / "state", run_id=run).is_file() for run in "abc")


def validating_site(folder: Path, data_dir: Path) -> Path:
    """A hospital that trains privately, and validates so."""
    validation = "{epsilon: 50, delta: 1e-5, subjects: 1, noise_multiplier: 0.5, metrics: {psnr_db: [10, 40]}"
    rules = f"{RULES}  validation: {validation}, ledger: state/privacy/v.jsonl, ledger_head: v.json}}\n"
    return deployed_site(folder, data_dir, rules=rules)


def test_private_validation_is_noisy_and_told_once_per_model(tmp_path: Path, ixi_dir: Path) -> None:
    path = validating_site(tmp_path, ixi_dir)

    def told(request: Request) -> dict[str, float]:
        reply = ask(path, as_message(request))
        assert not reply.has_error(), reason(reply)
        return metrics(reply)

    first = told(training_request(TASK, WEIGHTS))
    assert set(first) == {"validation_psnr_db", "validation_subjects"}
    assert 10 <= first["validation_psnr_db"] <= 40
    assert first["validation_subjects"] == 1
    chosen = {name: array + 1 for name, array in WEIGHTS.items()}
    assert told(dataclasses.replace(evaluation(VALIDATION, weights=chosen), round=0)) == {}  # the same model's number
    assert set(told(evaluation(VALIDATION))) == set(first)
    assert told(evaluation(VALIDATION, weights=chosen)) == {}


def test_a_refused_round_costs_no_validation(tmp_path: Path, ixi_dir: Path) -> None:
    """By a rule, by the run's budget, and by the deadline."""
    path = validating_site(tmp_path, ixi_dir)
    for settings, error in (
        (("privacy.noise_multiplier=0.1",), PolicyError),
        (("privacy.epsilon=0.5",), BudgetError),
        (("privacy.noise_multiplier=9000", "training.local_steps=100000"), DeadlineError),
    ):
        reply = ask(path, asking(*settings)())
        assert reply.has_error(), settings
        assert reason(reply) == error.public
    assert not (tmp_path / "state/privacy/v.jsonl").exists()
    assert "validation_psnr_db" in metrics(ask(path, as_message(training_request(TASK, WEIGHTS))))


def test_no_figure_of_few_subjects_leaves_without_privacy_either(tmp_path: Path) -> None:
    """20 subjects: 2 validate, 4 test."""
    task, weights = small_task("evaluation.max_subjects=1")
    path = deployed_site(tmp_path, write_ixi(tmp_path / "ixi", {"Guys": 20}))
    assert reason(ask(path, as_message(evaluation(ALL, task=task, weights=weights)))) == PolicyError.public
    one_slice, _ = small_task("evaluation.validation_slices=1")
    assert reason(ask(path, as_message(training_request(one_slice, weights)))) == PolicyError.public
    honest, _ = small_task("evaluation.max_subjects=10")
    told = figures(path, evaluation(ALL, task=honest, weights=weights))
    assert told["num_examples"] == 10
    for most in (11, 19):  # the attack: one subject more, or one less than all
        task, _ = small_task(f"evaluation.max_subjects={most}")
        assert figures(path, evaluation(ALL, task=task, weights=weights)) == told
    task, _ = small_task("evaluation.max_subjects=20")
    assert figures(path, evaluation(ALL, task=task, weights=weights))["num_examples"] == 20
    # without the four test subjects there would be six of the first ten
    withheld = figures(path, evaluation(TEST, task=honest, weights=weights))
    assert (withheld.pop("num_examples"), "psnr_db" in withheld.pop("suppressed").split(","), withheld) == (0, True, {})

    few = tmp_path / "few"
    few.mkdir()
    path = deployed_site(few, write_ixi(few / "ixi", {"Guys": 9}))
    reply = ask(path, as_message(training_request(honest, weights)))
    assert metrics(reply) == {}
    assert "train_loss" in str(reply.content.config_records[SCALARS]["suppressed"]).split(",")


def test_a_scenario_does_not_isolate_who_lacks_a_modality(tmp_path: Path) -> None:
    """11 subjects, one without PD."""
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 11})
    next((data_dir / "IXI-PD").iterdir()).unlink()
    path, answers = deployed_site(tmp_path, data_dir), []
    for scenario in ("T1:T2", "T1,T2:PD"):
        task, _ = small_task(f"scenario={scenario}")
        answers.append(ask(path, as_message(evaluation(ALL, task=task, weights=Network(read_task(task)).weights))))
    assert answers[0].content.config_records[SCALARS]["num_examples"] == 11
    assert reason(answers[1]) == PolicyError.public


def test_the_training_loss_is_of_many_crops(tmp_path: Path, ixi_dir: Path) -> None:
    """Those of ten at least; and two rounds of other lengths differ by as many, where steps do not move the weights."""
    path, still = deployed_site(tmp_path, ixi_dir), "training.learning_rate=1e-12"

    def told(steps: int, crops: int) -> dict[str, Any]:
        task, weights = small_task(still, f"training.local_steps={steps}", f"training.batch_size={crops}")
        return figures(path, training_request(task, weights))

    one = told(1, 1)
    assert "train_loss" not in one
    assert "train_loss" in one["suppressed"].split(",")
    two, three, four = (told(steps, 5)["train_loss"] for steps in (2, 3, 4))
    assert two == three != four


def test_validation_is_of_the_same_slices_for_life(tmp_path: Path, ixi_dir: Path) -> None:
    """A figure of one slice more would tell of that slice."""
    path = deployed_site(tmp_path, ixi_dir)
    tasks = [small_task(f"evaluation.validation_slices={count}") for count in (6, 7, 64)]
    one, *others = [figures(path, evaluation(VALIDATION, task=task, weights=weights)) for task, weights in tasks]
    assert one["validation_psnr_db"] > 0
    assert others == [one, one]
