"""What becomes of each weight of a run."""

import json
from pathlib import Path

import pytest

from agi_core.config.load import load_config
from agi_core.keys import NAME, KeyTable
from agi_core.network import Network
from agi_core.privacy.trainable import parameters_of
from tests.support.small_data import SMALL


def table_of(*settings: str) -> tuple[KeyTable, Network]:
    task = load_config(None, overrides={}, assignments=[*SMALL, *settings]).task
    network = Network(task)
    return KeyTable.of(task, {name: array.ndim for name, array in network.weights.items()}), network


def test_the_prior_stays_as_it_is_sent_and_the_last_layer_becomes_each_sites_own() -> None:
    table, network = table_of("model.prior=cubic", "personal=head")
    assert table.frozen == ("prior.coefficients", "prior.gram")
    assert sorted([*table.shared, *table.frozen]) == sorted(network.weights)
    assert {key.split(".")[0] for key in table.personal} == {"head", "prior"}
    shared = f"{len(table.shared)} weight tensors are trained and averaged"
    assert str(table).startswith(f"{shared}, 2 stay as they are sent (prior), ")


def test_without_prior_and_privacy_all_weights_are_shared() -> None:
    table, network = table_of()
    assert table == KeyTable(tuple(network.weights), (), ())
    assert str(table) == f"{len(network.weights)} weight tensors are trained and averaged"


@pytest.mark.parametrize("part", ["norms", "last"])
def test_a_private_run_keeps_what_it_does_not_train(part: str, tmp_path: Path) -> None:
    table, network = table_of("privacy.epsilon=8", f"privacy.trainable={part}")
    assert {*table.shared} == {*parameters_of(part, network.module)}
    assert table.frozen
    table.write(tmp_path, sites=("A", "B"))
    written = json.loads((tmp_path / NAME).read_text())
    assert (written["shared"], written["sites"]) == ([*table.shared], ["A", "B"])
