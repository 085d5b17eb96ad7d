"""`--check`: everything that can be known before a site joins, as a table with a way to mend each fault."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agi_core import atomic
from agi_core.config import DEFAULT_SCENARIOS
from agi_core.scenario import parse_scenario
from client.check_connection import check_connection
from client.check_data import check_data
from client.check_machine import check_machine
from client.checks import FAILED, Row, failed, passed, warning
from client.site import DeployedSite, read_deployed_site

REPORT_NAME = "check.json"


def preflight(site_path: Path, *, scenario: str | None, on_row: Callable[[Row], None]) -> dict[str, Any]:
    """Check all, telling `on_row` of each row at once; what comes back is also in state_dir/check.json, at the site.

    Args:
        scenario: modalities to check, such as `T1,T2:PD`; None = the usual ones of the layout.

    Returns:
        {"site", "checked", "ready": no row failed, "data": summary of the scans, "rows"}

    Raises:
        ConfigError: the site file or the scenario cannot be read.
    """
    site = read_deployed_site(site_path)
    parsed = parse_scenario(scenario or DEFAULT_SCENARIOS[site.data.layout])
    summary: dict[str, Any] = {}

    def all_rows() -> Iterator[Row]:
        nonlocal summary
        yield passed("site file", f"{site_path}, site {site.site}, scenario {parsed}")
        summary = yield from check_data(site, parsed)
        yield from check_machine(site)
        yield from check_connection(site.coordinator)
        yield _registration(site)

    rows = []
    for row in all_rows():
        rows.append(row)
        on_row(row)
    report = {
        "site": site.site,
        "checked": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "ready": all(row.state != FAILED for row in rows),
        "data": summary,
        "rows": [asdict(row) for row in rows],
    }
    if Path(site.state_dir).is_dir():  # else a row says why not
        atomic.write_json(Path(site.state_dir) / REPORT_NAME, report)
    return report


def _registration(site: DeployedSite) -> Row:
    """What the node's log last said; only a connection itself can tell."""
    what, log_path = "registration", Path(site.state_dir) / "logs" / "node.log"
    log = log_path.read_text(errors="replace") if log_path.is_file() else ""
    told = re.findall(r"SuperNode ID: \d+|\[code: 200[14]\]", log)
    if not told:
        return warning(
            what,
            "not known before the first connection",
            "ask the coordinator whether this key's fingerprint is registered, then start the client",
        )
    if told[-1].startswith("SuperNode"):
        return passed(what, f"the coordinator accepted this site's key when it last connected ({log_path})")
    return failed(
        what,
        f"the coordinator refused this site's key at the last attempt {told[-1]}",
        "ask the coordinator to register the .pub file beside key_file, then start the client",
    )
