"""Strikes: a site gets one for each reply that no honest program sends. Three strikes put it in quarantine, until the
coordinator releases it.

`strikes.json` is `{site: [{"run": name, "round": n, "reason": text}, ...]}`. It lies in the coordinator's folder, so
that it holds across runs, or in the folder of a simulated run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agi_core.errors import ConfigError, RunError
from agi_core.host import atomic

FILE = "strikes.json"
QUARANTINED_AT = 3

Strikes = dict[str, list[dict[str, Any]]]


def read(path: Path) -> Strikes:
    """{site: its strikes}.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return {str(site): [dict(strike) for strike in rows] for site, rows in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it from a backup") from None


def strike(path: Path, site: str, *, run: str, round: int, reason: str) -> int:
    """Note a strike and return how many the site has."""
    strikes = read(path)
    strikes.setdefault(site, []).append({"run": run, "round": round, "reason": reason})
    atomic.write_json(path, strikes)
    return len(strikes[site])


def quarantined(path: Path) -> list[str]:
    """The sites that are shut out, in the order of names."""
    return sorted(site for site, rows in read(path).items() if len(rows) >= QUARANTINED_AT)


def release(path: Path, site: str) -> list[Mapping[str, Any]]:
    """Forget a site's strikes, and return them.

    Raises:
        ConfigError: it has none.
    """
    strikes = read(path)
    if site not in strikes:
        raise ConfigError(f"{site} has no strikes; with strikes: {', '.join(strikes) or 'no site'}")
    rows: list[Mapping[str, Any]] = [*strikes.pop(site)]
    atomic.write_json(path, strikes)
    return rows
