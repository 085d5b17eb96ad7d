"""How training is told; `test_report` has the whole page."""

import dataclasses

import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.report.in_words import (
    each_step,
    how_trained,
    its_own,
    loss,
    moved,
    optimiser,
    personal_model,
    server_step,
    start,
)


def config(*assignments: str) -> RunConfig:
    return load_config(None, overrides={}, assignments=assignments)


def test_training_without_privacy() -> None:
    plain = config("training.batch_size=8", "training.learning_rate=0.002", "training.proximal=0.5")
    assert each_step(plain) == "8 crops"
    assert optimiser(plain) == "AdamW, peak learning rate 0.002"
    assert loss(plain) == "L1 + 0.5 / 2 |w - w0|^2 (FedProx)"
    assert moved(plain) == ""
    assert "batch 8;" in how_trained(plain)["federated"]
    deployed = dataclasses.replace(plain, engine=DEPLOYMENT)
    alone = [how_trained(its)["local_only"].endswith("its own test subjects") for its in (plain, deployed)]
    assert alone == [False, True]


def test_an_adversary_and_a_moved_source_are_named() -> None:
    assert loss(config("training.adversarial=true", "training.ssim_weight=0.5")) == (
        "L1 + 0.5 (1 - SSIM) + adversarial (pix2pix)"
    )
    turned = config("training.misalign.source=T2", "training.misalign.kind=rotation", "training.misalign.size=4")
    assert moved(turned) == "T2, rotation of up to 4 degrees in each crop"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ((), "mean of the sites' weights"),
        (("federation.aggregation=trimmed_mean",), "trimmed mean of the sites' weights"),
        (("federation.server_momentum=0.9",), "mean of the sites' weights, momentum 0.9 and learning rate 1"),
        (("federation.server_learning_rate=0.5",), "mean of the sites' weights, learning rate 0.5"),
        (
            ("federation.server_optimizer=adam", "federation.server_learning_rate=0.003"),
            "mean of the sites' weights, FedAdam with learning rate 0.003",
        ),
    ],
)
def test_how_the_server_makes_the_next_weights(settings: tuple[str, ...], told: str) -> None:
    assert server_step(config(*settings)) == told


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (None, "random"),
        ("random", "random"),
        ("/a/pretrained-0123456789ab.safetensors", "pre-trained on public synthetic data (pretrained-0123456789ab.saf"),
        ("/a/pretrained.safetensors", "of the file pretrained.safetensors"),
    ],
)
def test_where_the_run_started(file: str | None, told: str) -> None:
    run = dataclasses.replace(config(), initial_weights=file)
    assert start(run).startswith(told)
    assert f"started from, {told}" in how_trained(run)["initial_weights"]


def test_private_training() -> None:
    private = config("privacy.epsilon=8", "privacy.lot_rate=0.25", "privacy.trainable=all")
    assert each_step(private) == "random lots of 25% of the subjects, each with 4 crops"
    assert optimiser(private).startswith("private AdamW on the whole model: each subject's gradient is clipped")
    assert loss(private) == "L1"
    told = how_trained(private)
    assert "random lots of 25%" in told["federated"]
    assert told["centralised"].startswith("one model, without privacy, ")


@pytest.mark.parametrize(
    ("personal", "own", "told", "alone"),
    [
        ("head", "a last layer of its own", "with a last layer that the site solved", "6 x 40 = 240 steps"),
        (
            "norms",
            "norms, biases, first and last convolution of its own",
            "one more round of the norms",
            "7 x 40 = 280",
        ),
        (
            "finetune",
            "a model fine-tuned on its own subjects",
            "one more round of the whole model",
            "7 x 40 = 280 steps",
        ),
    ],
)
def test_what_a_site_makes_its_own(personal: str, own: str, told: str, alone: str) -> None:
    run = config(f"personal={personal}", "rounds=6", "training.local_steps=40")
    assert its_own(run) == own
    assert told in personal_model(run)
    assert how_trained(run)["personal"] == personal_model(run)
    assert alone in how_trained(run)["local_only"]
    assert "6 x 40 = 240 steps" in how_trained(run)["centralised"]
