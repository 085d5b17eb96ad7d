"""`state_dir/told.json`: the sets of training subjects that the site has told statistics of, for each scenario.

Two answers on sets of subjects that differ by one person tell, by their difference, of that person. So an answer is of
a set that was told of before, or of one that differs from each of these by as many subjects as the policy's minimum.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from agi_core.errors import DataError, PolicyError
from agi_core.host import atomic

NAME = "told.json"


def told_subjects(state_dir: Path, scenario: str, training: Collection[str], *, minimum: int) -> frozenset[str]:
    """The training subjects that statistics are told of; a new set is on the disk when this returns.

    Raises:
        PolicyError: every set that may be told of holds a subject that is gone.
        DataError: the file cannot be read. RunError: it cannot be written.
    """
    path = state_dir / NAME
    told, now = _read(path), frozenset(training)
    before = [frozenset(subjects) for subjects in told.get(scenario, ())]
    if now in before:
        return now
    if all(len(earlier ^ now) >= minimum for earlier in before):
        atomic.write_json(path, {**told, scenario: [*map(sorted, [*before, now])]})
        return now
    if usable := [earlier for earlier in before if earlier <= now]:
        return usable[-1]
    raise PolicyError(
        "policy.minimum_subjects: subjects that statistics were told of are gone, and fewer than"
        f" {minimum} have come or gone since; statistics are told again once so many have"
    )


def _read(path: Path) -> Mapping[str, list[list[str]]]:
    try:
        told = json.loads(path.read_bytes()) if path.exists() else {}
        return {str(scenario): [[str(s) for s in subjects] for subjects in sets] for scenario, sets in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise DataError(
            f"{path} cannot be read, so it is unknown of whom statistics were told: put back its last copy, or refuse"
            " runs that ask for statistics (policy.settings: {model.prior: [none]})"
        ) from None
