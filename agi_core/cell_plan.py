"""The plan of a run over a vocabulary: which cells are trained where, which are blends of which, and which nobody can
make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from agi_core.cells import Vocabulary
from agi_core.errors import ConfigError
from agi_core.report.markup import plural
from agi_core.scenario import Scenario

LEAST_STEPS = 4
Offers = Mapping[str, Sequence[str]]
"""{site: the modalities that it offers}."""


@dataclass(frozen=True)
class Plan:
    """What becomes of each cell; in each mapping in the vocabulary's order.

    Attributes:
        trained: cells with the sites that train them.
        blends: cells that no site can train, with the trained cells that make the same target from some of the sources.
        nobody: cells that no trained cell helps to make.
        offers: the modalities that each site offers.
        local_steps: what a site trains per round in all; see `steps`.
    """

    trained: Mapping[Scenario, tuple[str, ...]]
    blends: Mapping[Scenario, tuple[Scenario, ...]]
    nobody: tuple[Scenario, ...]
    offers: Offers
    local_steps: int

    @classmethod
    def of(
        cls, vocabulary: Vocabulary, holders: Mapping[Scenario, Sequence[str]], *, offers: Offers, local_steps: int
    ) -> Self:
        """The plan where `holders` can train each cell."""
        trained = {cell: tuple(holders[cell]) for cell in vocabulary.cells if holders.get(cell)}
        experts = {
            cell: tuple(one for one in trained if one.target == cell.target and {*one.sources} < {*cell.sources})
            for cell in vocabulary.cells
            if cell not in trained
        }
        return cls(
            trained,
            blends={cell: some for cell, some in experts.items() if some},
            nobody=tuple(cell for cell, some in experts.items() if not some),
            offers=offers,
            local_steps=local_steps,
        )

    def share(self, cell: Scenario) -> int:
        """How many trained cells compete at the busiest site of a trained one."""
        return max(sum(site in sites for sites in self.trained.values()) for site in self.trained[cell])

    def steps(self, cell: Scenario) -> int:
        """Local steps per round of a trained cell: its share of a site's steps, and at least `LEAST_STEPS` where the
        site trains so many. All holders of a cell train it equally long."""
        return max(min(LEAST_STEPS, self.local_steps), self.local_steps // self.share(cell))

    def __str__(self) -> str:
        steps = {cell: plural(self.steps(cell), "step") for cell in self.trained}
        lines = [f"{cell}: {steps[cell]} a round at {', '.join(its)}" for cell, its in self.trained.items()]
        lines += [f"{cell}: a blend of {' and '.join(map(str, some))}" for cell, some in self.blends.items()]
        return "\n".join([*lines, *(f"{cell}: nobody can make it" for cell in self.nobody)])


def check_offer(site: str, modalities: Sequence[str], vocabulary: Vocabulary) -> None:
    """Raise ConfigError unless a site, training or unseen, can take part in any cell with what it offers."""
    names = ", ".join(vocabulary.modalities)
    for modality in modalities:
        if modality not in vocabulary.modalities:
            raise ConfigError(f"federation.offers: {site} offers {modality}, and the run is about {names}")
    if len({*modalities}) < 2:
        offered = ", ".join(modalities) or "nothing"
        raise ConfigError(f"{site} offers {offered}; a site needs two of {names} to take part")


def check_offers(offers: Offers, vocabulary: Vocabulary, *, held: Mapping[str, Mapping[str, int]]) -> None:
    """Raise ConfigError unless the sites can work together on a vocabulary.

    Args:
        held: {site: {modality: subjects that have it}}.
    """
    for site, modalities in offers.items():
        if site not in held:
            raise ConfigError(f"federation.offers: there is no training site {site}; there are {', '.join(held)}")
        check_offer(site, modalities, vocabulary)
        for modality in modalities:
            if not held[site].get(modality):
                raise ConfigError(f"federation.offers: {site} offers {modality}, which none of its subjects has")
    for modality in vocabulary.modalities:
        if not any(modality in modalities for modalities in offers.values()):
            raise ConfigError(f"no site offers {modality}; take it out of the vocabulary {vocabulary}")
    joined, *rest = offers
    reached = {*offers[joined]}
    while near := [site for site in rest if reached & {*offers[site]}]:
        reached.update(*(offers[site] for site in near))
        rest = [site for site in rest if site not in near]
    if rest:
        raise ConfigError(
            f"{joined} ({', '.join(offers[joined])}) and {rest[0]} ({', '.join(offers[rest[0]])}) have no modality in"
            " common, nor through other sites, so neither helps the other; run them apart"
        )
