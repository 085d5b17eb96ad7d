"""Strikes: a site gets one for each reply that no honest program sends. Three strikes put the site in quarantine. It
stays there until the coordinator releases it.

`strikes.json` is `{site: [{"run": name, "round": n, "reason": text}, ...]}`. In deployment it lies in the coordinator's
folder, so that strikes hold across runs. A simulation keeps it in the run's folder. `strikes.lock` beside it is held
over each change: runs write it at the same time, and `release` too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from agi_core.errors import ConfigError, RunError
from agi_core.host import atomic, lock
from agi_core.run.json_objects import JsonObject

FILE = "strikes.json"
QUARANTINED_AT = 3


@dataclass(frozen=True)
class Strike(JsonObject):
    """One refused reply: in which run and round, and why."""

    run: str
    round: int
    reason: str


def read(path: Path) -> dict[str, list[Strike]]:
    """{site: its strikes}.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return {site: [Strike.from_json(row) for row in rows] for site, rows in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it from a backup") from None


def strike(path: Path, site: str, *, run: str, round: int, reason: str) -> int:
    """Note a strike and return how many the site has. Raises RunError as `read` does, or if the file cannot be
    written."""
    with lock.alone(path.with_suffix(".lock")):
        struck = read(path)
        struck.setdefault(site, []).append(Strike(run, round, reason))
        _write(path, struck)
        return len(struck[site])


def quarantined(path: Path) -> list[str]:
    """The sites that are shut out, in the order of names."""
    return sorted(site for site, rows in read(path).items() if len(rows) >= QUARANTINED_AT)


def release(path: Path, site: str) -> list[Strike]:
    """Forget a site's strikes, and return them.

    Raises:
        ConfigError: it has none.
        RunError: as `read` does, or the file cannot be written.
    """
    with lock.alone(path.with_suffix(".lock")):
        struck = read(path)
        if site not in struck:
            raise ConfigError(f"{site} has no strikes; with strikes: {', '.join(struck) or 'no site'}")
        forgotten = struck.pop(site)
        _write(path, struck)
        return forgotten


def _write(path: Path, struck: dict[str, list[Strike]]) -> None:
    atomic.write_json(path, {site: [row.to_json() for row in rows] for site, rows in struck.items()})
