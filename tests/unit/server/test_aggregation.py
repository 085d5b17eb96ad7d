"""Each rule against a plain loop in Python floats, and what it promises when one site lies."""

import itertools
import math
import statistics
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agi_core.config.schema import Aggregation, FederationConfig
from agi_core.errors import ConfigError, RunError
from server.aggregation import RULES, AggregationRule, SiteUpdate, aggregate, check_sites, hostile_sites

ROBUST: tuple[Aggregation, ...] = ("trimmed_mean", "median", "krum", "bulyan")
ALL: tuple[Aggregation, ...] = ("mean", *ROBUST)
SHAPES = {"w": (2, 3), "b": (2,)}


def updates_of(seed: int, count: int) -> list[SiteUpdate]:
    rng = np.random.default_rng(seed)
    return [
        SiteUpdate(f"site{i:02}", {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}, i + 1)
        for i in range(count)
    ]


def vector(update: SiteUpdate) -> list[float]:
    return [float(value) for name in SHAPES for value in update.weights[name].ravel()]


def estimate(updates: list[SiteUpdate], aggregation: Aggregation, *, share: float = 0.1) -> list[float]:
    config = FederationConfig(aggregation=aggregation, hostile_share=share)
    result = aggregate(updates, config=config)
    assert all(array.dtype == np.float64 for array in result.values())
    return [float(value) for name in SHAPES for value in result[name].ravel()]


def krum_by_hand(vectors: list[list[float]], f: int) -> int:
    scores = []
    for i, mine in enumerate(vectors):
        distances = sorted(math.dist(mine, other) ** 2 for j, other in enumerate(vectors) if j != i)
        scores.append(sum(distances[: max(1, len(vectors) - f - 2)]))
    return scores.index(min(scores))


def by_hand(vectors: list[list[float]], counts: list[int], aggregation: Aggregation, f: int) -> list[float]:
    columns = [sorted(column) for column in zip(*vectors, strict=True)]
    if aggregation == "mean":
        weighted = zip(*vectors, strict=True)
        return [sum(n * x for n, x in zip(counts, c, strict=True)) / sum(counts) for c in weighted]
    if aggregation == "trimmed_mean":
        return [statistics.fmean(column[f : len(column) - f]) for column in columns]
    if aggregation == "median":
        return [statistics.median(column) for column in columns]
    if aggregation == "krum":
        return vectors[krum_by_hand(vectors, f)]
    left, chosen = list(vectors), []
    while len(chosen) < len(vectors) - 2 * f:
        chosen.append(left.pop(krum_by_hand(left, f)))
    result = []
    for column in zip(*chosen, strict=True):
        middle = statistics.median(column)
        result.append(statistics.fmean(sorted(column, key=lambda x: abs(x - middle))[: len(vectors) - 4 * f]))
    return result


@pytest.mark.parametrize("aggregation", ALL)
@pytest.mark.parametrize(("count", "share"), [(7, 0.1), (11, 0.1), (9, 0.05), (16, 0.12)])
def test_estimators_equal_a_plain_loop(aggregation: Aggregation, count: int, share: float) -> None:
    f = math.ceil(share * count)
    for seed in range(5):
        updates = updates_of(seed, count)
        expected = by_hand([*map(vector, updates)], [u.num_examples for u in updates], aggregation, f)
        np.testing.assert_allclose(estimate(updates, aggregation, share=share), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("aggregation", ALL)
def test_blocks_change_nothing(aggregation: Aggregation, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = updates_of(1, 11)
    whole = estimate(updates, aggregation)
    monkeypatch.setattr("server.aggregation.BLOCK", 23)  # two coordinates at a time
    np.testing.assert_allclose(estimate(updates, aggregation), whole, rtol=1e-15)


def test_near_replies_are_told_apart_however_far_they_are_from_zero() -> None:
    """Krum's distances of 1e-3 between weights of 1e5: their squares are 1e-16 of the weights' own."""
    rng = np.random.default_rng(0)
    near = [1e5 + 1e-3 * rng.normal(size=4) for _ in range(7)]
    updates = [SiteUpdate(f"site{i}", {"w": near[i][:0], "b": near[i]}, 1) for i in range(7)]
    config = FederationConfig(aggregation="krum")
    expected = near[krum_by_hand([array.tolist() for array in near], 1)]
    np.testing.assert_array_equal(aggregate(updates, config=config)["b"], expected)


@pytest.mark.parametrize("aggregation", ALL)
@given(order=st.permutations(range(7)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_order_of_replies_does_not_change_a_bit(aggregation: Aggregation, order: list[int], seed: int) -> None:
    updates = updates_of(seed, 7)
    assert estimate(updates, aggregation) == estimate([updates[i] for i in order], aggregation)


@pytest.mark.parametrize("aggregation", ROBUST)
@given(lie=st.sampled_from([1e30, -1e30, 1e6, -10.0]), liar=st.integers(0, 6), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_one_liar_of_seven_cannot_leave_the_range_of_the_honest(
    aggregation: Aggregation, lie: float, liar: int, seed: int
) -> None:
    updates = updates_of(seed, 7)
    honest = np.array([vector(update) for i, update in enumerate(updates) if i != liar])
    lying = {name: np.full(shape, lie, np.float32) for name, shape in SHAPES.items()}
    updates[liar] = SiteUpdate(updates[liar].site, lying, 10**9)
    result = np.array(estimate(updates, aggregation))
    assert (result >= honest.min(axis=0) - 1e-12).all()
    assert (result <= honest.max(axis=0) + 1e-12).all()


def test_the_plain_mean_falls_to_one_liar() -> None:
    updates = updates_of(0, 7)
    lying = {name: np.full(shape, 1e6, np.float32) for name, shape in SHAPES.items()}
    updates[0] = SiteUpdate(updates[0].site, lying, 10**6)
    assert min(estimate(updates, "mean")) > 9e5


@pytest.mark.parametrize("aggregation", ROBUST)
def test_claimed_sizes_count_for_nothing_in_robust_estimates(aggregation: Aggregation) -> None:
    updates = updates_of(3, 7)
    inflated = [SiteUpdate(u.site, u.weights, 10**6 if u is updates[2] else 1) for u in updates]
    assert estimate(updates, aggregation) == estimate(inflated, aggregation)


@pytest.mark.parametrize(("aggregation", "least"), [("trimmed_mean", 3), ("median", 3), ("krum", 5), ("bulyan", 7)])
def test_too_few_replies_are_refused_not_averaged(aggregation: Aggregation, least: int) -> None:
    estimate(updates_of(0, least), aggregation)
    with pytest.raises(RunError, match=f"{aggregation} needs {least} replies .* {least - 1} were accepted"):
        estimate(updates_of(0, least - 1), aggregation)


def test_the_trimmed_mean_of_four_cuts_one_per_side() -> None:
    """Where Flower's cuts int(0.2 * 4) = 0 and is the plain mean."""
    updates = [SiteUpdate(s, {"w": np.array([x], np.float32)}, 1) for s, x in zip("abcd", (0, 1, 3, 1e6), strict=True)]
    config = FederationConfig(aggregation="trimmed_mean", hostile_share=0.2)
    assert aggregate(updates, config=config)["w"] == [2.0]


def test_how_many_may_be_hostile() -> None:
    counts = {(0.1, 3): 1, (0.1, 10): 1, (0.1, 11): 2, (0.1, 30): 3, (0.2, 5): 1, (0.2, 6): 2, (0.45, 9): 5}
    for (share, replies), f in counts.items():
        assert hostile_sites(FederationConfig(hostile_share=share), replies=replies) == f


def test_sites_that_cannot_bear_the_aggregation_are_refused_before_the_run() -> None:
    sites = [f"site{i:02}" for i in range(16)]
    check_sites(FederationConfig(sites=sites[:3], aggregation="median"))
    check_sites(FederationConfig(sites=sites[:7], aggregation="bulyan", quorum=7))
    with pytest.raises(ConfigError, match="krum needs 5 replies, and with 4 training sites a round may have 4"):
        check_sites(FederationConfig(sites=sites[:4], aggregation="krum"))
    with pytest.raises(ConfigError, match=r"trimmed_mean needs 3 .* may have 2"):
        check_sites(FederationConfig(sites=sites[:5], aggregation="trimmed_mean", quorum=2))
    with pytest.raises(ConfigError, match="quorum=6 is more than the 5"):
        check_sites(FederationConfig(sites=sites[:5], quorum=6))
    check_sites(FederationConfig(sites=sites[:4], secure_sum=True, quorum=3))
    for few in (FederationConfig(sites=sites[:2]), FederationConfig(sites=sites[:5], quorum=2)):
        with pytest.raises(ConfigError, match=r"secure_sum=true needs 3 sites in every round"):
            check_sites(replace(few, secure_sum=True))
    # 15 replies are enough for 3 hostile, 16 are not for 4: every number between quorum and all is looked at
    with pytest.raises(ConfigError, match=r"bulyan needs 19 .* may have 16"):
        check_sites(FederationConfig(sites=sites, aggregation="bulyan", hostile_share=0.2, quorum=15))


def test_every_number_of_replies_that_is_allowed_is_enough() -> None:
    for aggregation, count in itertools.product(ALL, range(1, 12)):
        config = FederationConfig(sites=[str(i) for i in range(count)], aggregation=aggregation)
        try:
            check_sites(config)
        except ConfigError:
            continue
        assert len(estimate(updates_of(0, count), aggregation)) == 8


def test_every_rule_can_be_configured_and_every_name_has_its_rule() -> None:
    assert get_args(Aggregation) == (*RULES,) == ALL


def test_a_new_rule_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The f-th lowest value of each coordinate, which needs f+2 replies."""
    lowest = AggregationRule(
        least=lambda f: f + 2,
        combine=lambda updates, f: {
            name: np.sort([update.weights[name] for update in updates], axis=0)[f].astype(np.float64) for name in SHAPES
        },
    )
    monkeypatch.setitem(RULES, "lowest", lowest)
    new: Aggregation = "lowest"  # type: ignore[assignment]
    updates = updates_of(0, 4)
    expected = [sorted(column)[1] for column in zip(*map(vector, updates), strict=True)]
    assert estimate(updates, new) == expected
    with pytest.raises(RunError, match=r"lowest needs 3 replies .* 2 were accepted"):
        estimate(updates[:2], new)
    with pytest.raises(ConfigError, match=r"lowest needs 3 replies, .* bulyan 7, lowest 3"):
        check_sites(FederationConfig(sites=["A", "B"], aggregation=new))
