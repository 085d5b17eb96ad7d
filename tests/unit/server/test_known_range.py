"""The known range of a run from what sites tell, honest or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agi_core.config.schema import FederationConfig, RunConfig
from agi_core.known_range import NAME, KnownRange, names_of
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.pooled_range import Moments
from agi_core.protocol import EVALUATE, RANGE, Packed, Reply, Request, Weights, pack
from server.collector import Judge
from server.known_range import judge_range, learn_range

CONFIG = RunConfig(
    scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4)), federation=FederationConfig(sites=("A", "B", "C", "D"))
)
NETWORK = Network(CONFIG)
NAMES = names_of(NETWORK)
REQUEST = Request(
    action=EVALUATE, run_id="run", round=1, nonce="", task="", subjects=RANGE, deadline_s=9, weights=pack({})
)


def told(mean: float = 0.25, square: float = 0.125) -> Moments:
    """The same for each measure."""
    return np.array([[mean] * len(NAMES), [square] * len(NAMES)])


def reply(weights: Packed | None, *, subjects: int = 4) -> Reply:
    return Reply(run_id="run", round=1, nonce="n", num_examples=subjects, metrics={}, weights=weights)


class Sites:
    """Sites that tell moments of so many subjects; the others hold everything back."""

    def __init__(self, answers: Mapping[str, tuple[Moments, int]]) -> None:
        self.answers = answers

    def ask(self, sites: Sequence[str], question: str, weights: Weights, judge: Judge[Any]) -> Mapping[str, Any]:
        assert question == RANGE
        replies = {site: reply(None, subjects=0) for site in sites}
        for site, (moments, subjects) in self.answers.items():
            replies[site] = reply(pack({"moments": moments}), subjects=subjects)
        verdict = judge(replies, REQUEST)
        assert not verdict.refused
        return verdict.accepted


def test_the_run_has_the_range_of_all_sites_that_tell(tmp_path: Path) -> None:
    sites = Sites({"A": (told(), 4), "B": (told(0.5, 0.25), 12)})
    learnt = learn_range(tmp_path, CONFIG, NETWORK.weights, sites=[*"ABCD"], ask=sites.ask)
    assert learnt.said == (
        "known range: of 16 training subjects at 2 of 4 sites; without C, D, who told nothing of their scans"
    )
    assert (learnt.subjects, learnt.left_out) == ({"A": 4, "B": 12}, ["C", "D"])
    known = KnownRange.read(tmp_path / NAME)
    assert known is not None
    assert (str(known), [*known.means]) == ("16 training subjects", [*NAMES])
    mean, square = (4 * 0.25 + 12 * 0.5) / 16, (4 * 0.125 + 12 * 0.25) / 16
    assert {*known.means.values()} == {mean}
    assert known.spreads[NAMES[0]] == pytest.approx(np.sqrt((square - mean**2) * 16 / 15))


@pytest.mark.parametrize(("answers", "count"), [({"A": (told(), 4)}, "4 training subjects at 1"), ({}, "0 training")])
def test_without_a_range_the_run_says_why(
    tmp_path: Path, answers: Mapping[str, tuple[Moments, int]], count: str
) -> None:
    learnt = learn_range(tmp_path, CONFIG, NETWORK.weights, sites=[*"ABCD"], ask=Sites(answers).ask)
    assert learnt.said.startswith(f"no known range: it takes 5 subjects, and sites told of {count}")
    assert "D, who told nothing of their scans; make it with python -m agi_core calibrate" in learnt.said
    assert not [*tmp_path.iterdir()]


def test_what_no_honest_site_tells_is_refused_and_who_tells_nothing_is_left_out() -> None:
    honest = told()
    replies = {
        "A": reply(pack({"moments": honest}), subjects=16),
        "B": reply(None, subjects=0),
        "C": reply(pack({"moments": honest}), subjects=0),
        "D": reply(pack({"moments": honest}), subjects=17),
        "E": reply(pack({"moments": honest.astype(np.float32)})),
        "F": reply(pack({"moments": honest[:, 1:]})),
        "G": reply(pack({"other": honest})),
        "H": reply(pack({"moments": told(np.nan)})),
        "I": reply(pack({"moments": told(0.5, 0.125)})),
        "J": reply(Packed({"float64": honest[0]}, '[["moments","float64",[2,40]]]')),
        "K": reply(pack({"moments": told(0.5, 1e300)})),
    }
    verdict = judge_range(replies, REQUEST, names=NAMES)
    assert [*verdict.accepted] == ["A"]
    assert [*verdict.refused] == [*"CDEFGHIJK"]
