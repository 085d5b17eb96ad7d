"""Last layers that sites share, honest or not, and the run's copy of them."""

from pathlib import Path

import numpy as np

from agi_core.config.schema import Task
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.protocol import EVALUATE, LAST_LAYER, Packed, Reply, Request, pack
from agi_core.ridge import Vector
from agi_core.run.own_weights import read_own_weights, style_path
from server.styles import MOST_NORMS, judge_last_layers, write_styles

TASK = Task(scenario="T1,T2:PD", personal="head", model=ModelConfig(widths=(4, 4), prior="cubic"))
COMMON = np.array([3.0, 0.0, -4.0])
REQUEST = Request(
    action=EVALUATE, run_id="run", round=2, nonce="", task="", subjects=LAST_LAYER, deadline_s=9, weights=pack({})
)


def reply(weights: Packed | None, *, subjects: int = 9) -> Reply:
    return Reply(run_id="run", round=2, nonce="n", num_examples=subjects, metrics={}, weights=weights)


def told(layer: Vector, *, subjects: int = 9) -> Reply:
    return reply(pack({"last_layer": layer}), subjects=subjects)


def test_what_no_honest_site_tells_is_refused_and_who_keeps_its_own_is_left_out() -> None:
    most = MOST_NORMS * 5
    replies = {
        "A": told(COMMON * 2),
        "B": reply(None, subjects=0),
        "C": told(np.array([1.0, np.nan, 1.0])),
        "D": told(np.array([np.inf, 0.0, 0.0])),
        "E": told(np.array([0.0, 1.001 * most, 0.0])),
        "F": told(np.full(3, 1e300)),
        "G": told(COMMON[:2]),
        "H": told(COMMON[None]),
        "I": told(COMMON.astype(np.float32)),
        "J": reply(pack({"other": COMMON})),
        "K": told(COMMON, subjects=0),
        "L": reply(Packed({"float64": COMMON}, '[["last_layer","float64",[7]]]')),
        "M": told(np.array([0.0, most, 0.0])),
    }
    verdict = judge_last_layers(replies, REQUEST, common=COMMON)
    assert [*verdict.accepted] == ["A", "M"]
    np.testing.assert_array_equal(verdict.accepted["A"], COMMON * 2)
    assert [*verdict.refused] == [*"CDEFGHIJKL"]
    assert verdict.refused["E"] == "the reply's last layer has norm 500, at most 500 can be"
    of_nothing = judge_last_layers({"A": told(COMMON)}, REQUEST, common=np.zeros(3))
    assert [*of_nothing.accepted] == ["A"]


def test_the_run_keeps_a_layer_as_the_site_has_it(tmp_path: Path) -> None:
    network, there = Network(TASK), Network(TASK)
    common = {name: array.copy() for name, array in network.weights.items()}
    layers = {site: np.arange(len(network.readout)) / (2.0 + k) for k, site in enumerate("AB")}
    write_styles(tmp_path, layers, network=network, task=TASK)
    for name, array in network.weights.items():
        np.testing.assert_array_equal(array, common[name])
    for site, layer in layers.items():
        own = read_own_weights(style_path(tmp_path, site), network=network)
        there.load({**common, **own})
        np.testing.assert_array_equal(there.readout, layer.astype(np.float32))
        assert {name.split(".")[0] for name in own} == {"head", "prior"}
