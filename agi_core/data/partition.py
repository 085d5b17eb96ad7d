"""Partition: which subjects train at which client, and which are kept to validate and to test. Never by slice.

A partition depends on the SHA-256 of subject ids and on the parts that were given before. It does not depend on the
order of files, on the machine, or on Python's hash seed.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agi_core.data.scans import Subject
from agi_core.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """Subject ids of one client, each in exactly one part."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """Subjects of each client that trains, and of each hospital that only tests the final model."""

    training: Mapping[str, tuple[Subject, ...]]
    unseen: Mapping[str, tuple[Subject, ...]]


def stable_order(subject_ids: Iterable[str], *, seed: int | None = None) -> tuple[str, ...]:
    """Subject ids in the order of their SHA-256; with a seed, in the order of SHA-256 of `seed:id`."""
    prefix = "" if seed is None else f"{seed}:"
    return tuple(sorted(subject_ids, key=lambda subject_id: hashlib.sha256(f"{prefix}{subject_id}".encode()).digest()))


def split_subjects(subject_ids: Iterable[str], *, before: Split | None = None) -> Split:
    """Split the subjects of one client. A subject that has a part in the split `before` keeps it for ever.

    One subject trains. Of two subjects, one trains and one tests. Of three or more, 20 % test and 10 % validate, both
    rounded down but at least one, and the rest trains. Subjects that test and validation still lack are taken from the
    newcomers: test subjects from the front of the stable order, validation subjects from its back.
    """
    before = before or Split()
    order = stable_order(subject_ids)
    n = len(order)
    train, validation, test = (
        [subject_id for subject_id in order if subject_id in part]
        for part in (before.train, before.validation, before.test)
    )
    given = {*train, *validation, *test}
    new = [subject_id for subject_id in order if subject_id not in given]
    tests = max(0, (0 if n < 2 else max(1, n * 20 // 100)) - len(test))
    rest = new[tests:]
    validations = max(0, (0 if n < 3 else max(1, n * 10 // 100)) - len(validation))
    trains = max(0, len(rest) - validations)
    return Split(
        train=stable_order([*train, *rest[:trains]]),
        validation=stable_order([*validation, *rest[trains:]]),
        test=stable_order([*test, *new[:tests]]),
    )


def partition(subjects: Sequence[Subject], *, clients: int, scheme: Literal["site", "iid"], seed: int) -> Partition:
    """Assign subjects to clients.

    `site`: a client is a hospital, named after it. With fewer clients than hospitals those with most subjects train
    (ties by name) and the others are unseen. With more, each extra client goes to the hospital with most subjects per
    client, whose parts are then called `Guys-1`, `Guys-2`; no client mixes hospitals.
    `iid`: all subjects, shuffled by `seed`, in parts `client-1` to `client-N` whose sizes differ by at most one.

    Raises:
        ConfigError: the scheme is unknown, or `clients` is not between 1 and the number of subjects.
    """
    if not 1 <= clients <= len(subjects):
        raise ConfigError(
            f"{clients} clients cannot each have a subject: there are {len(subjects)} subjects; "
            f"pass --clients from 1 to {len(subjects)}"
        )
    match scheme:
        case "site":
            return _by_site(subjects, clients=clients, seed=seed)
        case "iid":
            return Partition(training=_parts(subjects, clients, "client", seed=seed), unseen={})
        case _:
            raise ConfigError(f"unknown partition '{scheme}'; pass --partition site or --partition iid")


def _by_site(subjects: Sequence[Subject], *, clients: int, seed: int) -> Partition:
    hospitals: dict[str, list[Subject]] = defaultdict(list)
    for subject in sorted(subjects, key=lambda subject: subject.id):
        hospitals[subject.site].append(subject)
    by_size = sorted(hospitals, key=lambda site: (-len(hospitals[site]), site))

    parts = dict.fromkeys(by_size[:clients], 1)
    for _ in range(clients - len(parts)):
        crowded = max(parts, key=lambda site: len(hospitals[site]) / parts[site])  # the first of equals: by size, name
        parts[crowded] += 1

    training: dict[str, tuple[Subject, ...]] = {}
    for site in sorted(parts):
        if parts[site] == 1:
            here = {site: tuple(hospitals[site])}
        else:
            here = _parts(hospitals[site], parts[site], site, seed=seed)
        for client, its_subjects in here.items():
            if client in training or (client != site and client in hospitals):
                raise ConfigError(
                    f"{site} has to be divided into {parts[site]} clients, but a hospital is called {client} already; "
                    f"rename it or pass --clients of at most {len(hospitals)}"
                )
            training[client] = its_subjects
    return Partition(training, {site: tuple(hospitals[site]) for site in sorted(hospitals) if site not in parts})


def _parts(subjects: Sequence[Subject], count: int, name: str, *, seed: int) -> dict[str, tuple[Subject, ...]]:
    """Shuffle by seed and deal out to `name-1` ... `name-count`; sizes differ by at most one."""
    by_id = {subject.id: subject for subject in subjects}
    order = tuple(by_id[subject_id] for subject_id in stable_order(by_id, seed=seed))
    return {f"{name}-{index + 1}": order[index::count] for index in range(count)}
