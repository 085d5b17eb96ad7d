"""The reference from what sites tell, honest or not."""

import dataclasses

import numpy as np
import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import PrivacyConfig, RunConfig
from agi_core.protocol import EVALUATE, POSES, Packed, Reply, Request, pack
from agi_core.scenario import parse_scenario
from server.poses import asks_for_poses, chosen_by, judge_poses
from tests.support.small_data import SMALL

REQUEST = Request(
    action=EVALUATE, run_id="run", round=0, nonce="", task="", subjects=POSES, deadline_s=9, weights=pack({})
)


def reply(weights: Packed | None) -> Reply:
    return Reply(run_id="run", round=0, nonce="n", num_examples=3, metrics={}, weights=weights)


def told(*mm: float) -> Reply:
    return reply(pack({"offsets_mm": np.array(mm)}))


@pytest.fixture
def config() -> RunConfig:
    return load_config(None, overrides={"scenario": "T1,T2:PD"}, assignments=SMALL)


def test_what_no_honest_site_tells_is_refused_and_the_others_count() -> None:
    replies = {
        "A": told(2.0, 0.1),
        "B": reply(None),
        "C": told(2.0, np.nan),
        "D": told(2.0, -1.0),
        "E": told(2.0),
        "F": told(2.0, 501.0),
        "G": reply(pack({"other": np.zeros(2)})),
        "H": reply(pack({"offsets_mm": np.zeros(2, np.float32)})),
        "I": reply(Packed({"float64": np.zeros(2)}, manifest="[[")),
    }
    verdict = judge_poses(replies, REQUEST, scenario=parse_scenario("T1,T2:PD"))
    assert verdict.accepted == {"A": {"T1": 2.0, "T2": 0.1}}
    assert [*verdict.refused] == [*"BCDEFGHI"]


def test_the_nearest_source_at_most_sites_becomes_the_reference(config: RunConfig) -> None:
    offsets = {"A": {"T1": 0.1, "T2": 0.2}, "B": {"T1": 9.0, "T2": 0.3}, "C": {"T1": 0.2, "T2": 0.3}}
    chosen, text = chosen_by(config, offsets)
    assert (chosen.reference, chosen.training.align_target) == ("T1", False)  # 3.1 mm on average, 0.2 at the median
    assert "T1 0.2 mm, T2 0.3 mm; reference T1" in text
    moved, text = chosen_by(config, {**offsets, "A": {"T1": 0.9, "T2": 2.0}, "C": {"T1": 0.8, "T2": 2.0}})
    assert (moved.reference, moved.training.align_target) == ("T1", True)
    assert "No source lies in the pose of PD" in text
    given, _ = chosen_by(dataclasses.replace(config, reference="T2"), offsets)
    assert (given.reference, given.training.align_target) == ("T2", False)


def test_where_nothing_lies_apart_at_any_site_it_is_said_that_alignment_may_be_left_out(config: RunConfig) -> None:
    together = {"A": {"T1": 0.1, "T2": 0.2}, "B": {"T1": 0.6, "T2": 0.3}}
    aligns = dataclasses.replace(config, model=dataclasses.replace(config.model, alignment="affine"))
    hint = "model.alignment=none"
    assert hint in chosen_by(aligns, together)[1]
    assert hint not in chosen_by(aligns, {**together, "C": {"T1": 0.7, "T2": 0.1}})[1]
    single = dataclasses.replace(aligns, scenario="T1:PD")  # nothing is there to be aligned with
    assert hint not in chosen_by(single, {"A": {"T1": 0.1}})[1]
    none = dataclasses.replace(config.model, alignment="none", neighbours=0)
    assert hint not in chosen_by(dataclasses.replace(config, model=none), together)[1]


def test_where_nobody_tells_the_run_stays_as_it_is_and_that_is_said(config: RunConfig) -> None:
    assert chosen_by(config, {}) == (
        config,
        "no site told distances: the reference is the last source, or the one given",
    )


def test_only_what_is_open_is_asked_and_never_in_a_private_run(config: RunConfig) -> None:
    assert asks_for_poses(config)
    settled = dataclasses.replace(config.training, align_target=False)
    assert asks_for_poses(dataclasses.replace(config, training=settled))
    assert not asks_for_poses(dataclasses.replace(config, reference="T2", training=settled))
    assert not asks_for_poses(dataclasses.replace(config, privacy=PrivacyConfig(epsilon=8.0)))
