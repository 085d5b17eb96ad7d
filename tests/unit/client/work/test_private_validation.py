import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agi_core.evaluation
from agi_core.config.load import read_task
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.prediction import Predictor
from agi_core.privacy.accounting import Steps, epsilon
from agi_core.privacy.ledger import open_ledger
from agi_core.privacy.noise import NoiseSource, system_noise
from agi_core.protocol import EVALUATE, TRAIN, VALIDATION, Request, Weights, pack
from client.site.file import Site
from client.site.opened import SiteScans, open_site
from client.site.policy import PrivateValidation, SitePrivacy
from client.work import evaluation
from client.work.evaluation import Slices
from client.work.job import Job
from client.work.private_validation import SubjectMetrics, noisy_means, validate_privately
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task

SUBJECTS = ("a", "b", "c", "d")
SCORES: SubjectMetrics = {subject: {"psnr_db": 20.0 + number, "ssim": 0.5} for number, subject in enumerate(SUBJECTS)}
ONE = Steps(4.0, 1.0, 1)
FIGURES = st.dictionaries(st.sampled_from(["psnr_db", "ssim"]), st.floats(-1e6, 1e6), max_size=2)


class NoNoise(NoiseSource):
    def normal(self, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.zeros(count)


NO_NOISE = NoNoise(bytes(32))


def rules(folder: Path, *, budget: float = 100.0, noise_multiplier: float = 4.0) -> PrivateValidation:
    metrics = {"psnr_db": [10.0, 40.0], "ssim": [0.0, 1.0]}
    ledger, head = str(folder / "l" / "validation.jsonl"), str(folder / "head.json")
    return PrivateValidation(
        ledger=ledger,
        ledger_head=head,
        subjects=4,
        epsilon=budget,
        delta=1e-5,
        noise_multiplier=noise_multiplier,
        metrics=metrics,
    )


def validate(
    validation: PrivateValidation,
    *,
    round: int,
    run: str = "run",
    action: str = EVALUATE,
    score: Callable[[], SubjectMetrics] = lambda: SCORES,
    subjects: Collection[str] = SUBJECTS,
) -> dict[str, float]:
    request = Request(
        action=action,
        run_id=run,
        round=round,
        nonce="nonce",
        task="{}",
        subjects=VALIDATION,
        deadline_s=60,
        weights=pack({"w": np.zeros(1)}),
    )
    return validate_privately(
        score,
        site=Site(site="Guys", state_dir=str(Path(validation.ledger_head).parent / "state")),
        validation=validation,
        request=request,
        subjects=subjects,
        noise=system_noise(),
    )


def test_without_noise_it_is_the_mean_of_clipped_figures(tmp_path: Path) -> None:
    assert noisy_means(SCORES, rules(tmp_path), NO_NOISE) == pytest.approx({"psnr_db": 21.5, "ssim": 0.5})
    wild: SubjectMetrics = {"a": {"psnr_db": 1e9, "ssim": -5.0}, "b": {"psnr_db": float("nan")}}
    # the two others of four count as the middle
    assert noisy_means(wild, rules(tmp_path), NO_NOISE) == pytest.approx({"psnr_db": 28.75, "ssim": 0.375})


@given(st.lists(FIGURES, max_size=5), FIGURES)
def test_one_subject_moves_the_scaled_sum_by_at_most_the_sensitivity(
    others: list[dict[str, float]], own: dict[str, float]
) -> None:
    """sqrt(2) for two figures: the noise is sigma times that."""
    validation = rules(Path("/nowhere"))
    without: SubjectMetrics = {str(number): figures for number, figures in enumerate(others)}
    half = {"psnr_db": 15.0, "ssim": 0.5}

    def scaled(scores: SubjectMetrics) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The sum, from the means of so many public subjects that the final clip does not hide it."""
        means = noisy_means(scores, dataclasses.replace(validation, subjects=100), NO_NOISE)
        return np.array([means[name] / half[name] * 100 for name in sorted(half)])

    moved = scaled({**without, "own": own}) - scaled(without)
    assert np.linalg.norm(moved) <= np.sqrt(2) + 1e-9


def test_the_noise_has_the_promised_size(tmp_path: Path, seeded: Callable[[int], NoiseSource]) -> None:
    noise, validation = seeded(1), rules(tmp_path, noise_multiplier=0.1)
    drawn = np.array([noisy_means(SCORES, validation, noise)["psnr_db"] for _ in range(2000)])
    assert drawn.mean() == pytest.approx(21.5, abs=0.05)
    assert drawn.std() == pytest.approx(15 * 0.1 * np.sqrt(2) / 4, rel=0.08)  # half range, sigma sqrt(k), subjects


def test_each_model_of_a_run_is_told_once_and_charged(tmp_path: Path) -> None:
    validation = rules(tmp_path)
    first = validate(validation, round=3, action=TRAIN)  # the model after round 2
    assert set(first) == {"psnr_db", "ssim"}
    assert 10 <= first["psnr_db"] <= 40
    assert validate(validation, round=3, action=TRAIN) == {}
    assert validate(validation, round=2) == {}
    assert validate(validation, round=3) != {}
    assert validate(validation, round=3, run="another") != {}
    with open_ledger(Path(validation.ledger), head_path=Path(validation.ledger_head), site="Guys") as ledger:
        assert ledger.spent(SUBJECTS) == [ONE, ONE, ONE]


def test_scores_that_fail_are_noise_alone(tmp_path: Path) -> None:
    """A failure would tell of the validation subjects, and cost nothing."""

    def failing() -> SubjectMetrics:
        raise MemoryError

    validation = rules(tmp_path)
    assert set(validate(validation, round=1, score=failing)) == {"psnr_db", "ssim"}
    assert validate(validation, round=1) == {}


def test_a_site_without_a_validation_subject_answers_like_any_other(tmp_path: Path) -> None:
    validation = rules(tmp_path)
    assert set(validate(validation, round=1, score=dict, subjects=())) == {"psnr_db", "ssim"}
    assert validate(validation, round=1, score=dict, subjects=()) == {}


def test_a_spent_budget_ends_the_figures_and_not_the_run(tmp_path: Path) -> None:
    validation = rules(tmp_path, budget=epsilon([ONE, ONE], delta=1e-5))
    assert [bool(validate(validation, round=round)) for round in (1, 2, 3)] == [True, True, False]


def private_job(tmp_path: Path, ixi_dir: Path, task: str, weights: Weights, *, exclude: tuple[str, ...]) -> Job:
    """A question for the validation of a private site with five validation subjects, of whom some are not there."""
    network, site = Network(read_task(task)), open_site(deployed_site(tmp_path, ixi_dir)).file
    network.load(weights)
    validation, state_dir = [f"IXI10{n}" for n in range(5)], tmp_path / f"state{len(exclude)}"
    split = {"train": [f"IXI1{n:02}" for n in range(5, 12)], "validation": validation, "test": [], "images": {}}
    atomic.write_json(state_dir / "split.json", split)
    privacy = SitePrivacy(ledger="a", ledger_head="b", subjects=7, epsilon=8, delta=1e-5)
    file = dataclasses.replace(
        site,
        privacy=dataclasses.replace(privacy, validation=rules(tmp_path)),
        state_dir=str(state_dir),
        data=dataclasses.replace(site.data, exclude=exclude),
    )
    request = evaluation_request(VALIDATION, task=task, weights=weights)
    return Job(
        request=request,
        task=read_task(task),
        site=file,
        scans=SiteScans(file, read_task(task)),
        network=network,
    )


def test_who_else_validates_changes_no_figure_of_a_subject(
    ixi_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else somebody who comes or goes would move the sum by more than the noise is made for."""
    task, weights = small_task("evaluation.validation_slices=16")
    scored: list[SubjectMetrics] = []
    monkeypatch.setattr(
        "client.work.private_validation.validate_privately", lambda score, **_: scored.append(score()) or {}
    )
    for exclude in ((), ("IXI100",)):
        evaluation.validate(private_job(tmp_path, ixi_dir, task, weights, exclude=exclude))
    whole, fewer = scored
    assert {*whole} - {*fewer} == {"IXI100"}
    assert len(fewer) > 1
    assert all(whole[name] == figures for name, figures in fewer.items())


def test_one_who_cannot_be_scored_takes_nobody_along(
    ixi_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everybody's figures gone for one subject's sake, the sum would tell of that subject."""
    task, weights = small_task("evaluation.validation_slices=16")
    score_one, scored = agi_core.evaluation.evaluate, list[SubjectMetrics]()

    def failing(predictor: Predictor, slices: Slices, **options: Any) -> SubjectMetrics:
        if slices[0][0].subject_id == "IXI102":
            raise MemoryError
        return score_one(predictor, slices, **options)

    monkeypatch.setattr(agi_core.evaluation, "evaluate", failing)
    monkeypatch.setattr(
        "client.work.private_validation.validate_privately", lambda score, **_: scored.append(score()) or {}
    )
    evaluation.validate(private_job(tmp_path, ixi_dir, task, weights, exclude=()))
    assert {*scored[0]} == {"IXI100", "IXI101", "IXI103", "IXI104"}
