"""What the coordinator accepts of keys and masked vectors."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agi_core.config.schema import FederationConfig
from agi_core.host.keys import fingerprint
from agi_core.protocol import KEYS, TRAIN, Packed, Reply, Request, pack, unpack
from agi_core.secure_sum import Attempt
from client.border.secure_sum import tell_key
from client.site.file import Site
from server.secure_sum import judge_keys, judge_vectors, least_sites

ASKED = Request(
    action=TRAIN,
    run_id="run",
    round=1,
    nonce="",
    task="{}",
    subjects=KEYS,
    deadline_s=60,
    weights=pack({}),
    secure_sum=Attempt(1).text,
)


def reply(weights: Packed | None, *, num_examples: int = 0, steps: int = 2) -> Reply:
    return Reply(run_id="run", round=1, nonce="", num_examples=num_examples, metrics={}, weights=weights, steps=steps)


def test_keys_are_those_of_the_sites(tmp_path: Path) -> None:
    a, b = (reply(tell_key(Site(site=site, state_dir=str(tmp_path / site)), ASKED)) for site in "AB")
    verdict = judge_keys({"A": a, "B": b}, ASKED, registered={})
    assert ([*verdict.accepted], verdict.refused) == (["A", "B"], {})
    registered = {"A": verdict.accepted["A"].public_key, "B": verdict.accepted["A"].public_key}
    assert fingerprint(registered["A"]).startswith("SHA256:")
    verdict = judge_keys({"A": a, "B": b}, ASKED, registered=registered)
    assert verdict.refused == {"B": "the key for the secure sum is signed by one that is not the registered"}
    swapped = judge_keys({"A": b, "B": a}, ASKED, registered={})
    assert {*swapped.refused} == {"A", "B"}
    later = dataclasses.replace(ASKED, secure_sum=Attempt(2).text)
    assert "is not signed by its own key" in judge_keys({"A": a}, later, registered={}).refused["A"]


NO_KEYS = ({}, {"key": np.zeros(5, np.uint8)}, {"key": np.array([1.5])}, {"key": np.full(100_000, ord("["), np.uint8)})


@pytest.mark.parametrize("weights", [None, *map(pack, NO_KEYS)])
def test_what_is_no_key_is_refused(weights: Packed | None) -> None:
    verdict = judge_keys({"A": reply(weights)}, ASKED, registered={})
    assert verdict.refused == {"A": "the reply holds no key for the secure sum"}


def test_vectors_are_judged_by_form_and_size() -> None:
    vector = np.arange(6, dtype=np.uint64)
    good = pack({"sum": vector})
    odd = {
        "shorter": reply(pack({"sum": vector[1:]})),
        "signed": reply(pack({"sum": vector.astype(np.int64)})),
        "named otherwise": reply(pack({"w": vector})),
        "with more": reply(pack({"sum": vector, "w": vector})),
        "nothing": reply(None),
        "a deep manifest": reply(Packed({"uint64": vector}, "[" * 100_000)),
        "no manifest": reply(Packed({"uint64": vector}, "[]")),
        "counted": reply(good, num_examples=3),
        "without steps": reply(good, steps=0),
        "with too many steps": reply(good, steps=3),
    }
    verdict = judge_vectors({"whole": reply(good), **odd}, ASKED, size=5, most_steps=2)
    assert {*verdict.refused} == {*odd}
    (update,) = verdict.accepted.values()
    np.testing.assert_array_equal(update.weights["sum"], unpack(good)["sum"])


def test_three_sites_at_least() -> None:
    assert least_sites(FederationConfig(), expected=2) == 3
    assert least_sites(FederationConfig(), expected=5) == 5
    assert least_sites(FederationConfig(quorum=4), expected=5) == 4
