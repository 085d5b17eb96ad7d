"""Who holds what in the benchmark of cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agi_core.data.partition import partition, stable_order
from agi_core.data.scans import Subject
from agi_core.scenario import Scenario


@dataclass(frozen=True)
class Site:
    """What a site holds: modalities, and subjects that train, validate and test; `lacks` is {subject: modality}."""

    name: str
    modalities: frozenset[str]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    lacks: Mapping[str, str]

    def holding(self, modalities: Sequence[str], subject_ids: Sequence[str]) -> list[str]:
        """Those of the subjects who have all these modalities here."""
        if not self.modalities.issuperset(modalities):
            return []
        return [subject_id for subject_id in subject_ids if self.lacks.get(subject_id) not in modalities]

    def training(self, cell: Scenario) -> list[str]:
        return self.holding(cell.modalities, self.train)

    def validating(self, cell: Scenario) -> list[str]:
        return self.holding(cell.modalities, self.validation)

    def trains(self, cell: Scenario) -> bool:
        return bool(self.training(cell))


def deal(subjects: Sequence[Subject], text: str, *, by: str, seed: int, missing: float = 0.0) -> tuple[Site, ...]:
    """Subjects to the sites of `T1,T2;T1,PD;T2,PD*4`; a fifth of each site's test, and a fifth validate. A share of
    those who train or validate, `missing`, lack one modality of their site."""
    sites = [part.partition("*") for part in text.split(";")]
    order = [*stable_order((subject.id for subject in subjects), seed=seed)]
    few = {n: [order.pop() for _ in range(int(count))] for n, (_, _, count) in enumerate(sites) if count}
    rest = [subject for subject in subjects if subject.id in order]
    scheme: Any = "site" if by == "hospital" else "iid"
    parts = iter(partition(rest, clients=len(sites) - len(few), scheme=scheme, seed=seed).training.items())
    dealt = []
    random = np.random.default_rng(seed)
    for n, (modalities, _, _) in enumerate(sites):
        name, ids = (f"few-{n}", few[n]) if n in few else _named(next(parts))
        ids = [*stable_order(ids, seed=seed)]
        fifth = max(1, len(ids) // 5)
        held = modalities.split(",")
        lacking = random.choice(ids[fifth:], round(missing * len(ids[fifth:])), replace=False)
        dealt.append(
            Site(
                name=name,
                modalities=frozenset(held),
                train=tuple(ids[2 * fifth :]),
                validation=tuple(ids[fifth : 2 * fifth]),
                test=tuple(ids[:fifth]),
                lacks={str(subject_id): str(random.choice(held)) for subject_id in lacking},
            )
        )
    return tuple(dealt)


def _named(part: tuple[str, Sequence[Subject]]) -> tuple[str, list[str]]:
    return part[0], [subject.id for subject in part[1]]
