from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agi_core.data.partition import Split, partition, split_subjects, stable_order
from agi_core.data.scans import Subject
from agi_core.errors import ConfigError

IDS = st.lists(st.text("IX0123456789", min_size=1, max_size=8), min_size=1, max_size=60, unique=True)
SITES = st.lists(st.sampled_from(["Guys", "HH", "IOP", "site1"]), min_size=1, max_size=40)


def subjects_at(*sites: str) -> list[Subject]:
    return [Subject(f"S{index:03d}", site, ()) for index, site in enumerate(sites)]


def hospitals(**sizes: int) -> list[Subject]:
    return subjects_at(*(site for site, size in sizes.items() for _ in range(size)))


def test_order_is_that_of_sha256() -> None:
    assert stable_order(["a", "b", "c"]) == ("c", "b", "a")  # 2e7d..., 3e23..., ca97...
    assert stable_order(["c", "a", "b"]) == ("c", "b", "a")


def test_seeds_shuffle_differently() -> None:
    ids = [f"S{index}" for index in range(20)]
    orders = {stable_order(ids), stable_order(ids, seed=0), stable_order(ids, seed=1)}
    assert len(orders) == 3


@pytest.mark.parametrize(
    ("subjects", "train", "validation", "test"),
    [
        (0, 0, 0, 0),
        (1, 1, 0, 0),
        (2, 1, 0, 1),
        (3, 1, 1, 1),
        (9, 7, 1, 1),
        (10, 7, 1, 2),
        (24, 18, 2, 4),
        (99, 71, 9, 19),
    ],
)
def test_split_sizes(subjects: int, train: int, validation: int, test: int) -> None:
    split = split_subjects(f"S{index}" for index in range(subjects))
    assert (len(split.train), len(split.validation), len(split.test)) == (train, validation, test)


@given(IDS)
def test_every_subject_is_in_one_part_of_the_split(ids: list[str]) -> None:
    split = split_subjects(ids)
    assert sorted(split.train + split.validation + split.test) == sorted(ids)
    assert split == split_subjects(reversed(ids))


@given(size=st.integers(1, 200), name=st.text("IX0123456789", min_size=1))
def test_a_subject_keeps_its_part_whoever_joins_or_leaves(size: int, name: str) -> None:
    ids = [f"S{index}" for index in range(size)]
    before = split_subjects(ids)
    after = split_subjects([*ids[size // 3 :], name, f"{name}-too"], before=before)
    for part in ("train", "validation", "test"):
        stayed = set(getattr(before, part)) & {*ids[size // 3 :]}
        assert stayed <= set(getattr(after, part)) <= stayed | {name, f"{name}-too"}
    assert sorted(after.train + after.validation + after.test) == sorted([*ids[size // 3 :], name, f"{name}-too"])


def test_newcomers_fill_what_test_and_validation_lack() -> None:
    first, later = [f"S{index}" for index in range(10)], [f"N{index}" for index in range(10)]
    before = split_subjects(first)
    after = split_subjects([*first, *later], before=before)
    assert (len(after.train), len(after.validation), len(after.test)) == (14, 2, 4)
    everybody_trains = Split(train=tuple(first))
    assert split_subjects(first, before=everybody_trains) == Split(train=stable_order(first))
    assert len(split_subjects([*first, *later], before=everybody_trains).test) == 4


def test_fewer_clients_than_hospitals_leave_the_smallest_unseen() -> None:
    result = partition(hospitals(IOP=2, HH=5, Guys=7), clients=2, scheme="site", seed=0)
    assert list(result.training) == ["Guys", "HH"]
    assert {site: len(subjects) for site, subjects in result.unseen.items()} == {"IOP": 2}


def test_hospitals_of_equal_size_train_by_name() -> None:
    result = partition(hospitals(C=3, B=3, A=3), clients=2, scheme="site", seed=0)
    assert (list(result.training), list(result.unseen)) == (["A", "B"], ["C"])


def test_extra_clients_go_where_most_subjects_share_one() -> None:
    # 24, 14, 6 -> Guys 12 12 -> HH 7 7 -> Guys 8 8 8
    result = partition(hospitals(IOP=6, HH=14, Guys=24), clients=6, scheme="site", seed=0)
    sizes = {client: len(subjects) for client, subjects in result.training.items()}
    assert sizes == {"Guys-1": 8, "Guys-2": 8, "Guys-3": 8, "HH-1": 7, "HH-2": 7, "IOP": 6}
    assert result.unseen == {}


@given(sites=SITES, seed=st.integers(0, 2**32), data=st.data())
def test_clients_by_site_hold_every_subject_once_and_never_mix_hospitals(
    sites: list[str], seed: int, data: st.DataObject
) -> None:
    subjects = subjects_at(*sites)
    clients = data.draw(st.integers(1, len(subjects)))
    result = partition(subjects, clients=clients, scheme="site", seed=seed)
    everyone = [subject for group in (result.training, result.unseen) for held in group.values() for subject in held]
    assert Counter(subject.id for subject in everyone) == Counter(subject.id for subject in subjects)
    assert len(result.training) == clients
    for name, held in [*result.training.items(), *result.unseen.items()]:
        assert {name.split("-")[0]} == {subject.site for subject in held}


@given(sites=SITES, seed=st.integers(0, 2**32), data=st.data())
def test_iid_clients_hold_equal_parts_of_everyone(sites: list[str], seed: int, data: st.DataObject) -> None:
    subjects = subjects_at(*sites)
    clients = data.draw(st.integers(1, len(subjects)))
    result = partition(subjects, clients=clients, scheme="iid", seed=seed)
    assert list(result.training) == [f"client-{index}" for index in range(1, clients + 1)]
    assert sorted(subject.id for held in result.training.values() for subject in held) == [s.id for s in subjects]
    sizes = {len(held) for held in result.training.values()}
    assert max(sizes) - min(sizes) <= 1
    assert result.unseen == {}
    assert result == partition(subjects[::-1], clients=clients, scheme="iid", seed=seed)


def test_iid_follows_the_seed() -> None:
    subjects = hospitals(A=30)
    assert partition(subjects, clients=2, scheme="iid", seed=0) != partition(subjects, clients=2, scheme="iid", seed=1)


@pytest.mark.parametrize("scheme", ["site", "iid"])
@pytest.mark.parametrize("clients", [0, 4])
def test_impossible_numbers_of_clients_are_refused_with_the_largest(clients: int, scheme: str) -> None:
    with pytest.raises(ConfigError, match="pass --clients from 1 to 3"):
        partition(hospitals(A=2, B=1), clients=clients, scheme=scheme, seed=0)  # type: ignore[arg-type]


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(ConfigError, match="--partition site or --partition iid"):
        partition(hospitals(A=2), clients=1, scheme="random", seed=0)  # type: ignore[arg-type]


def test_a_part_never_takes_the_name_of_another_hospital() -> None:
    subjects = subjects_at("A", "A", "A", "A", "A-1")
    with pytest.raises(ConfigError, match="a hospital is called A-1"):
        partition(subjects, clients=3, scheme="site", seed=0)
