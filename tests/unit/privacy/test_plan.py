"""The planner against figures worked out by hand."""

import dataclasses

import pytest

from agi_core.__main__ import main
from agi_core.config.load import load_config
from agi_core.config.schema import PrivacyConfig, Task
from agi_core.models.model_config import ModelConfig
from agi_core.privacy.accounting import Steps, calibrate, epsilon
from agi_core.privacy.plan import epsilon_of_each, plan_privacy
from client.site.policy import SitePrivacy
from client.work.private_training import mechanism_of

TASK = Task(
    scenario="T1,T2:PD",
    rounds=5,
    model=ModelConfig(conv="plain", widths=(8, 16)),
    privacy=PrivacyConfig(epsilon=8.0, trainable="norms", delta=1e-4, lot_rate=0.2),
)


def test_noise_over_signal() -> None:
    plan = plan_privacy(TASK, subjects=300, target_epsilon=8.0)
    assert (plan.lot_size, plan.steps) == (60.0, 200)
    assert plan.epsilon == epsilon([Steps(plan.noise_multiplier, 0.2, 200)], delta=1e-4) <= 8.0 < plan.epsilon_rdp
    # encoder 2-8: 144 + 576 + 16 of skip, 8-16: 1152 + 2304 + 128; decoder 24-8: 1728 + 576 + 192; head 8 + 1;
    # norms of 8, 8, 16, 16, 8, 8 channels with a scale and a bias each
    convolutions, norms = 144 + 576 + 16 + 1152 + 2304 + 128 + 1728 + 576 + 192 + 8, 2 * 64
    assert [(part.part, part.parameters) for part in plan.parts] == [
        ("all", convolutions + norms + 1),
        ("last", 1728 + 576 + 192 + 32 + 9),
        ("norms", norms + 144 + 9),
    ]
    assert plan.trained == plan.parts[2]
    assert plan.signal_to_noise == pytest.approx(200**0.5 * 60 / (plan.noise_multiplier * (norms + 144 + 9) ** 0.5))
    for part in plan.parts:
        assert part.per_step == pytest.approx(plan.noise_multiplier * part.parameters**0.5 / 60)
        assert part.whole_run == pytest.approx(part.per_step / 200**0.5)


def test_the_prior_is_part_of_the_budget() -> None:
    task = dataclasses.replace(TASK, model=dataclasses.replace(TASK.model, prior="cubic"))
    plan = plan_privacy(task, subjects=300, target_epsilon=8.0)
    release = calibrate(0.3 * 8.0, delta=1e-4, lot_rate=1.0, steps=1)
    assert plan.epsilon == epsilon([Steps(release, 1.0, 1), Steps(plan.noise_multiplier, 0.2, 200)], delta=1e-4) <= 8.0
    assert plan.noise_multiplier > plan_privacy(TASK, subjects=300, target_epsilon=8.0).noise_multiplier
    allowed = SitePrivacy(ledger="l", ledger_head="h", subjects=300, epsilon=8.0, delta=1e-4)
    assert mechanism_of(task, allowed).noise_multiplier == plan.noise_multiplier


def test_advice_follows_the_noise() -> None:
    whole = dataclasses.replace(TASK, privacy=dataclasses.replace(TASK.privacy, trainable="all"))
    plans = [plan_privacy(whole, subjects=n, target_epsilon=8.0).advice for n in (3000, 30, 3)]
    assert "trained part (whole model) can outweigh the noise" in plans[0]
    assert "train privacy.trainable=norms of a model that was pre-trained" in plans[1]
    assert plans[2].startswith("Noise outweighs what even a small part can learn")


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy-plan", "--subjects", "200", "--epsilon", "8", "--rounds", "5", "--lot-rate", "0.2"]) == 0
    printed = capsys.readouterr().out
    overrides = {"rounds": 5, "privacy.epsilon": 8.0, "privacy.lot_rate": 0.2}
    task = load_config(None, overrides=overrides).task
    plan = plan_privacy(task, subjects=200, target_epsilon=8.0)
    assert f"noise multiplier   {plan.noise_multiplier:.3f}" in printed
    assert "lot size           40.0 expected" in printed
    assert f"steps              {5 * task.training.local_steps}" in printed
    assert f"signal over noise, whole run: {plan.signal_to_noise:.2f}" in printed
    assert f"{plan.epsilon:.2f} by PRV, {plan.epsilon_rdp:.2f} by RDP" in printed
    assert f"{plan.parts[0].parameters:,}" in printed
    assert plan.advice in printed


def test_the_command_says_where_steps_are_too_many_for_prv(capsys: pytest.CaptureFixture[str]) -> None:
    many = ("privacy-plan", "--subjects", "200", "--epsilon", "0.05", "--rounds", "1000", "--local-steps", "4")
    assert main([*many]) == 0
    assert "epsilon            too many steps for PRV, 0.05 by RDP" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--subjects=0", "--epsilon=-1", "--delta=x", "--lot-rate=nan", "--rounds=1.5"])
def test_bad_numbers_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["privacy-plan", "--subjects", "10", "--epsilon", "8", option])
    assert "not '" in capsys.readouterr().err


def test_a_rate_above_one_is_a_configuration_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy-plan", "--subjects", "10", "--epsilon", "8", "--lot-rate", "2"]) == 2
    assert "privacy.lot_rate=2" in capsys.readouterr().err


def test_runs_over_the_same_subjects_share_a_budget_by_what_they_cost_together() -> None:
    """The root of the sum of squares would be 8 / 2^0.5 = 5.66 for each of two equal Gaussian releases."""
    privacy = PrivacyConfig(epsilon=8.0)
    each = epsilon_of_each(privacy, steps=(2, 2), with_prior=False)
    assert 5 < each < 5.7
    sigma = calibrate(each, delta=privacy.delta, lot_rate=privacy.lot_rate, steps=2)
    assert 0.97 * 8 <= epsilon([Steps(sigma, privacy.lot_rate, 4)], delta=privacy.delta) <= 0.99 * 8


def test_a_run_by_itself_has_the_budget_and_runs_with_given_noise_have_equal_parts() -> None:
    """What given noise costs does not follow from a budget, so nothing can be gained."""
    assert epsilon_of_each(PrivacyConfig(epsilon=8.0), steps=(40,), with_prior=True) == 8
    loud = PrivacyConfig(epsilon=8.0, noise_multiplier=20.0)
    assert epsilon_of_each(loud, steps=(2, 2), with_prior=False) == 4
