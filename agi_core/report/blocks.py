"""Rounds in blocks. A plot has room for so many places, whatever the number of rounds, and so has the file."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

MOST_PLACES = 60  # of a plot of 150 to 600 pixels

Line = Mapping[int, float]  # {round: value}


class Place(NamedTuple):
    """What a line does in one block: the middle of its rounds, and the smallest, mean and largest value in them."""

    round: float
    low: float
    mean: float
    high: float


def blocks(rounds: Sequence[int], most: int = MOST_PLACES) -> list[Sequence[int]]:
    """The rounds in at most so many blocks of neighbours, all as long but the last; alone where they are few."""
    length = -(-len(rounds) // most) or 1
    return [rounds[start : start + length] for start in range(0, len(rounds), length)]


def places(line: Line, rounds: Sequence[int], most: int = MOST_PLACES) -> list[list[Place]]:
    """A line by the `blocks` of `rounds`, all that any line has, in pieces without a gap: a block is one where the line
    has none of its rounds."""
    told = [_place(block, [line[n] for n in block if n in line]) for block in blocks(rounds, most)]
    return [[place for place in piece if place] for there, piece in groupby(told, bool) if there]


def _place(block: Sequence[int], values: Sequence[float]) -> Place | None:
    if not values:
        return None
    return Place((block[0] + block[-1]) / 2, min(values), sum(values) / len(values), max(values))


def ranges(rounds: Iterable[int], most: int = 6) -> str:
    """`4, 6 to 9`; of more than so many ranges the first ones, the last round and the number of all rounds."""
    found: list[list[int]] = []
    for n in sorted(rounds):
        if found and n == found[-1][-1] + 1:
            found[-1].append(n)
        else:
            found.append([n])
    told = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in found]
    if len(told) > most:
        told = [*told[: most - 1], f"… {found[-1][-1]} ({sum(map(len, found))} rounds)"]
    return ", ".join(told)
