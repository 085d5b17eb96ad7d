import dataclasses
from typing import Any

import pytest

from agi_core.config.schema import GridConfig, PrivacyConfig, Task, TrainingConfig
from agi_core.errors import ConfigError, PolicyError
from client.site.policy import Policy, PrivateValidation, SitePrivacy, check_task, validate_rules
from client.work.private_training import mechanism_of

TRAINING = TrainingConfig(local_steps=40, ssim_weight=0.5)
TASK = Task(scenario="T1,T2:PD", rounds=6, grid=GridConfig(crop=[96, 96]), training=TRAINING)
PRIVACY = SitePrivacy(
    ledger="l",
    ledger_head="h",
    subjects=150,
    epsilon=8.0,
    delta=1e-5,
    min_noise_multiplier=1.0,
    max_grad_norm=1.0,
    max_lot_rate=0.5,
)
ASKED = PrivacyConfig(epsilon=8.0, delta=1e-5, noise_multiplier=1.0, max_grad_norm=1.0, lot_rate=0.5)


def private_validation(noise_multiplier: float, metrics: dict[str, list[float]]) -> PrivateValidation:
    return PrivateValidation(
        ledger="l",
        ledger_head="h",
        subjects=20,
        epsilon=4.0,
        delta=1e-5,
        noise_multiplier=noise_multiplier,
        metrics=metrics,
    )


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(scenarios=["T2:PD", "T1,T2:PD"]),
        Policy(scenarios=["T2:PD", "PD,T1,FLAIR,T2:any"]),
        Policy(settings={"rounds": 6, "training.local_steps": 40, "model.widths": 10_000}),
        Policy(settings={"training.ssim_weight": [0.0, 0.5], "reference": [None, "T1"]}),
    ],
)
def test_what_the_rules_allow(policy: Policy) -> None:
    validate_rules(policy, None)
    check_task(TASK, policy)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (Policy(scenarios=["T2:PD"]), r"policy.scenarios: the request asks for T1,T2:PD, and this site allows T2:PD"),
        (Policy(scenarios=["T1,T2:any"]), r"policy.scenarios: the request asks for T1,T2:PD, .* allows T1,T2:any"),
        (Policy(settings={"rounds": 5}), r"policy.settings.rounds: the request asks for 6, and this site allows 5"),
        (Policy(settings={"training.ssim_weight": [0.0]}), r"ssim_weight: the request asks for 0.5, .* \[0.0\]"),
        (Policy(settings={"grid.crop": 64}), r"grid.crop: the request asks for \[96, 96\], .* 64"),
        (Policy(settings={"reference": 3}), r"reference: the request asks for None"),
    ],
)
def test_what_they_refuse_is_named_with_both_values(policy: Policy, told: str) -> None:
    with pytest.raises(PolicyError, match=told) as refusal:
        check_task(TASK, policy)
    assert refusal.value.public == "The request is not allowed by the site's policy."


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"minimum_subjects": 0}, "minimum_subjects=0 must be at least 1"),
        ({"metrics": ["patient_age"]}, "patient_age"),
        ({"scenarios": ["T1"]}, "T1"),
        ({"scenarios": ["T1:any"]}, "two to 6 modalities, not 1"),
        ({"scenarios": [["T1,T2:PD"]]}, r"policy.scenarios: \['T1,T2:PD'\] is no name"),
        ({"secure_sum_with": ["MD5:ab"]}, r"policy.secure_sum_with: MD5:ab is no fingerprint of a key; write SHA256"),
        ({"share_last_layer": True, "secure_sum_with": []}, "share_last_layer: the site's own last layer, solved from"),
        ({"metrics": [["psnr_db"]]}, r"policy.metrics: \['psnr_db'\] is no name"),
        ({"settings": {"training.steps": 5}}, "training.steps is no setting"),
        ({"settings": {"training": 3}}, "training is no setting"),
        ({"settings": {"validate": 3}}, "validate is no setting"),
        ({"settings": {"rounds": "five"}}, "rounds: five must be the largest number"),
        ({"settings": {"rounds": float("nan")}}, "rounds: nan must be the largest number"),
    ],
)
def test_rules_that_make_no_sense(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        validate_rules(dataclasses.replace(Policy(), **change), None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"subjects": 0}, "privacy.subjects"),
        ({"epsilon": float("nan")}, "privacy.epsilon"),
        ({"delta": 0.01}, "privacy.delta=0.01 must be between"),  # more than one of 150
        ({"ledger_head": "l"}, "ledger_head=l is the ledger itself"),
        ({"min_noise_multiplier": -1.0}, "min_noise"),
        ({"max_lot_rate": 2.0}, "max_lot_rate"),
        ({"validation": private_validation(0.0, {"psnr_db": [0, 40]})}, "validation.noise"),
        ({"validation": private_validation(1.0, {"psnr_db": [40, 0]})}, "psnr_db"),
        ({"validation": private_validation(1.0, {"age": [0, 40]})}, "age"),
    ],
)
def test_privacy_rules_that_make_no_sense(change: dict[str, Any], told: str) -> None:
    validate_rules(Policy(), PRIVACY)
    with pytest.raises(ConfigError, match=told):
        validate_rules(Policy(), dataclasses.replace(PRIVACY, **change))


def test_a_site_that_trains_privately_shares_no_last_layer() -> None:
    validate_rules(Policy(share_last_layer=True), None)
    with pytest.raises(ConfigError, match=r"without noise, would leave, .* write share_last_layer: false"):
        validate_rules(Policy(share_last_layer=True), PRIVACY)


def test_more_privacy_may_be_asked_for() -> None:
    for change in ({}, {"epsilon": 1.0}, {"delta": 1e-7}, {"noise_multiplier": 5.0}, {"max_grad_norm": 0.1}):
        asked = dataclasses.replace(ASKED, **change)
        mechanism = mechanism_of(dataclasses.replace(TASK, privacy=asked), PRIVACY)
        assert (mechanism.noise_multiplier, mechanism.max_grad_norm) == (asked.noise_multiplier, asked.max_grad_norm)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"epsilon": None, "noise_multiplier": None}, "trains privately only"),
        ({"epsilon": 9.0}, "privacy.epsilon: the request asks for 9, and this site allows 8 or less"),
        ({"delta": 1e-4}, "privacy.delta"),
        ({"noise_multiplier": 0.9}, "privacy.min_noise_multiplier: the request asks for 0.9, .* 1 or more"),
        ({"max_grad_norm": 1e9}, "privacy.max_grad_norm"),
        ({"lot_rate": 0.6}, "privacy.max_lot_rate"),
    ],
)
def test_less_privacy_may_not(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(PolicyError, match=rule):
        mechanism_of(dataclasses.replace(TASK, privacy=dataclasses.replace(ASKED, **change)), PRIVACY)
