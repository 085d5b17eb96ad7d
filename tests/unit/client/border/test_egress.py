import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from agi_core.errors import AgiError, BudgetError, DataError, PolicyError, ProtocolError, RunError
from agi_core.host.hash_chain import Record, unseal
from agi_core.protocol import (
    EVALUATE,
    FAILED,
    OF_LAST_LAYER,
    POSES,
    REFUSED,
    STATISTICS,
    TEST,
    TRAIN,
    Reply,
    Request,
    pack,
)
from client.border import audit
from client.border.egress import let_out, refuse
from client.site.file import Site
from client.site.policy import Policy, PrivateValidation, SitePrivacy

WEIGHTS = pack({"w": np.ones(2, np.float32)})
REQUEST = Request(
    action=EVALUATE, run_id="run", round=1, nonce="nonce", task="{}", subjects=TEST, deadline_s=60, weights=WEIGHTS
)
PRIVACY = SitePrivacy(ledger="l", ledger_head="h", subjects=20, epsilon=8, delta=1e-5)


def reply(**metrics: float) -> Reply:
    return Reply(run_id="run", round=1, nonce="nonce", num_examples=3, metrics=metrics, weights=None)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(site="Guys", state_dir=str(tmp_path))


def with_policy(site: Site, policy: Policy) -> Site:
    return dataclasses.replace(site, policy=policy)


def test_allowed_metrics_leave_rounded_and_are_noted(site: Site, tmp_path: Path) -> None:
    left = let_out(reply(psnr_db=20.123456789, train_loss=0.1), request=REQUEST, site=site, subjects=10)
    assert (left.metrics, left.suppressed) == ({"psnr_db": 20.12346, "train_loss": 0.1}, "")
    (row,) = audit.read(tmp_path)
    assert (row.run, row.round, row.action, row.decision) == ("run", 1, "evaluate test", "answered")
    assert row.left == {"num_examples": 3, "steps": 0, "psnr_db": 20.12346, "train_loss": 0.1}
    assert (row.weights_bytes, row.weights_sha256) == (0, "")


@pytest.mark.parametrize("metrics", [{"patient_age": 3.0}, {"psnr_db": float("nan")}, {"psnr_db": float("inf")}])
def test_nothing_else_leaves(site: Site, tmp_path: Path, metrics: dict[str, float]) -> None:
    with pytest.raises(ProtocolError):
        let_out(reply(**metrics), request=REQUEST, site=site, subjects=10)
    assert audit.read(tmp_path) == []


def test_a_small_site_tells_no_figure_and_says_so(site: Site, tmp_path: Path) -> None:
    left = let_out(reply(psnr_db=20.0, ssim=0.5), request=REQUEST, site=site, subjects=9)
    assert (left.metrics, left.num_examples, left.suppressed) == ({}, 0, "psnr_db,ssim,num_examples")
    trained = dataclasses.replace(reply(train_loss=0.1), weights=WEIGHTS, steps=40)
    left = let_out(trained, request=dataclasses.replace(REQUEST, action=TRAIN), site=site, subjects=9)
    assert (left.metrics, left.num_examples, left.suppressed, left.weights) == ({}, 3, "train_loss", WEIGHTS)
    rows = audit.read(tmp_path)
    assert [list(row.held_back) for row in rows] == [["psnr_db", "ssim", "num_examples"], ["train_loss"]]
    assert rows[1].left == {"num_examples": 3, "steps": 40}
    assert rows[1].weights_bytes == 8
    again = let_out(left, request=REQUEST, site=site, subjects=9)
    assert again.metrics == {}


def test_the_policy_may_allow_fewer_metrics(site: Site) -> None:
    site = with_policy(site, Policy(metrics=["psnr_db"]))
    left = let_out(reply(psnr_db=20.0, ssim=0.5, mae=0.1), request=REQUEST, site=site, subjects=10)
    assert (left.metrics, left.suppressed, left.num_examples) == ({"psnr_db": 20.0}, "mae,ssim", 3)


def test_answers_on_one_model_are_counted(site: Site) -> None:
    """Other requests for figures of one model; what left before may leave again, and another model has its own."""
    site = with_policy(site, Policy(answers_per_model=2))

    def left(round: int, weights: float = 1.0) -> Reply:
        other = dataclasses.replace(REQUEST, round=round, weights=pack({"w": np.full(2, weights, np.float32)}))
        return let_out(reply(psnr_db=20.0), request=other, site=site, subjects=10)

    assert [bool(left(round).metrics) for round in (1, 2, 3, 1, 3)] == [True, True, False, True, False]
    assert left(3).suppressed == "psnr_db"
    assert left(3, weights=2.0).metrics != {}


@pytest.mark.parametrize(("asked", "called"), OF_LAST_LAYER.items())
def test_a_last_layer_and_its_statistics_count_as_a_figure(site: Site, tmp_path: Path, asked: str, called: str) -> None:
    site = with_policy(site, Policy(answers_per_model=1, share_last_layer=True))
    layer, question = dataclasses.replace(reply(), weights=WEIGHTS), dataclasses.replace(REQUEST, subjects=asked)
    told, again, other = (
        let_out(layer, request=dataclasses.replace(question, round=round), site=site, subjects=10)
        for round in (1, 1, 2)
    )
    assert (told, again) == (layer, layer)
    assert (other.weights, other.suppressed) == (None, called)
    assert let_out(reply(psnr_db=20.0), request=REQUEST, site=site, subjects=10).metrics == {}
    assert audit.read(tmp_path)[0].left == {"num_examples": 3, "steps": 0, called: 2}
    for keeps, subjects in ((Policy(), 10), (Policy(share_last_layer=True), 9)):
        kept = let_out(layer, request=question, site=with_policy(site, keeps), subjects=subjects)
        assert (kept.weights, kept.suppressed.split(",")[0]) == (None, called)


def test_answers_within_a_day_are_counted(site: Site, tmp_path: Path) -> None:
    now_s = time.time()
    for number, age_s in enumerate((90_000.0, 3600.0, -3600.0)):  # the clock may have been set back since
        moment = time.strftime(audit.TIME_FORMAT, time.localtime(now_s - age_s))
        row = audit.AuditRow(run="run", round=1, action="train", decision=audit.Decision.ANSWERED, time=moment)
        audit.append(tmp_path, dataclasses.replace(row, request=str(number), left={"num_examples": 3, "psnr_db": 1.0}))
    held_back, told = (
        let_out(reply(psnr_db=20.0), request=REQUEST, site=with_policy(site, Policy(answers_per_day=most)), subjects=10)
        for most in (2, 3)
    )
    assert (held_back.metrics, told.metrics) == ({}, {"psnr_db": 20.0})


@pytest.mark.parametrize("question", [STATISTICS, POSES])
def test_statistics_and_poses_are_counted_as_figures_of_the_day(site: Site, tmp_path: Path, question: str) -> None:
    """Of any number of grids and scenarios; of no model, because they are the same whatever model came."""
    site = with_policy(site, Policy(answers_per_model=1, answers_per_day=3))

    def left(round: int, *, site: Site = site) -> Reply:
        request = dataclasses.replace(REQUEST, subjects=question, round=round)
        return let_out(dataclasses.replace(reply(), weights=WEIGHTS), request=request, site=site, subjects=10)

    assert [left(round).weights for round in (1, 2)] == [WEIGHTS, WEIGHTS]
    assert let_out(reply(psnr_db=20.0), request=REQUEST, site=site, subjects=10).metrics == {"psnr_db": 20.0}
    with pytest.raises(PolicyError, match=rf"policy.answers_per_day=3: .* {question} count"):
        left(3)
    assert left(1).weights == WEIGHTS  # it left before
    assert audit.read(tmp_path)[0].left == {"num_examples": 3, "steps": 0, question: 2}
    private = dataclasses.replace(site, privacy=PRIVACY)
    assert left(4, site=private).weights == WEIGHTS  # it has noise, and the ledger counts it
    trains = dataclasses.replace(REQUEST, action=TRAIN, subjects=question, round=5)
    trained = let_out(
        dataclasses.replace(reply(train_loss=0.1), weights=WEIGHTS), request=trains, site=site, subjects=10
    )
    assert (trained.metrics, trained.weights) == ({}, WEIGHTS)  # whatever else it says, it is training


def test_an_answer_costs_as_much_however_many_left_before(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one verifies the audit; those that follow read no row of it."""
    verified: list[int] = []

    def counting(line: bytes, *, n: int, previous: str) -> Record:
        verified.append(n)
        return unseal(line, n=n, previous=previous)

    row = audit.AuditRow(run="run", round=1, action="train", decision=audit.Decision.ANSWERED)
    audit.append(Path(site.state_dir), row)
    (Path(site.state_dir) / audit.NAME).touch()  # as another process leaves it
    monkeypatch.setattr(audit, "unseal", counting)
    for round in range(5):
        let_out(reply(psnr_db=20.0), request=dataclasses.replace(REQUEST, round=round), site=site, subjects=10)
    assert verified == [0]


def test_no_metric_leaves_with_privately_trained_weights_but_noisy_validation(site: Site) -> None:
    site = dataclasses.replace(site, privacy=PRIVACY)
    trained = dataclasses.replace(reply(), weights=WEIGHTS)
    assert let_out(trained, request=REQUEST, site=site, subjects=10) == trained
    for name in ("train_loss", "seconds", "validation_psnr_db"):
        with pytest.raises(ProtocolError, match=f"{name} may not leave with privately"):
            let_out(dataclasses.replace(trained, metrics={name: 1.0}), request=REQUEST, site=site, subjects=10)
    validation = PrivateValidation(
        ledger="l",
        ledger_head="h",
        subjects=20,
        epsilon=8,
        delta=1e-5,
        noise_multiplier=1,
        metrics={"psnr_db": [10, 40]},
    )
    site = dataclasses.replace(site, privacy=dataclasses.replace(PRIVACY, validation=validation))
    noisy = dataclasses.replace(trained, metrics={"validation_psnr_db": 21.0})
    assert let_out(noisy, request=REQUEST, site=site, subjects=10) == noisy
    with pytest.raises(ProtocolError, match="train_loss"):
        let_out(dataclasses.replace(trained, metrics={"train_loss": 1.0}), request=REQUEST, site=site, subjects=10)


@pytest.mark.parametrize("error", [DataError("/data/patient-7"), PolicyError("patient-7"), BudgetError("patient-7")])
def test_an_error_leaves_as_its_public_sentence_and_is_noted(site: Site, tmp_path: Path, error: AgiError) -> None:
    asked = {"run_id": "\x1b[31mrun" + "x" * 99, "round": 4, "action": EVALUATE, "subjects": TEST}
    refusal = refuse(error, asked=asked, site=site)
    assert (refusal.code, refusal.reason) == (REFUSED, type(error).public)
    (row,) = audit.read(tmp_path)
    assert (row.round, row.action, row.decision, row.reason) == (4, "evaluate test", "refused", type(error).public)
    assert row.run.startswith("[31mrun")
    assert len(row.run) == 63
    assert "patient-7" not in (tmp_path / audit.NAME).read_text()


def test_a_request_that_cannot_be_read_is_noted_too(site: Site, tmp_path: Path) -> None:
    assert refuse(AgiError(), code=FAILED, asked={"round": "x"}, site=site).code == FAILED
    assert [(row.run, row.round, row.decision) for row in audit.read(tmp_path)] == [("", 0, "failed")]


def test_without_an_audit_no_figure_leaves_but_a_fixed_sentence_does(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / audit.NAME).write_text("damaged\n")
    with pytest.raises(RunError, match="row 1 is damaged"):
        let_out(reply(psnr_db=1.0), request=REQUEST, site=site, subjects=10)
    assert refuse(RunError("x"), asked={}, site=site).reason == RunError.public
    assert "row 1 is damaged" in caplog.text
    assert refuse(RunError("x"), asked={}, site=None).reason == RunError.public
