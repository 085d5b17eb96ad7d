"""`--check`: everything that can be known before a site joins, as a table with a way to mend each fault."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agi_core.cells import is_vocabulary, parse_vocabulary, wanted
from agi_core.data.fingerprint import check_different
from agi_core.data.scans import Subject
from agi_core.errors import AgiError, BusyError
from agi_core.host import atomic
from agi_core.host.keys import fingerprint
from agi_core.layouts import LAYOUTS
from agi_core.scenario import parse_scenario
from agi_core.signatures import read_public_key
from client.check.connection import check_connection
from client.check.data import Scan, check_data, images_of_scans
from client.check.machine import check_machine
from client.check.rows import CheckRow, CheckState, failed, passed, warning
from client.site.file import DeployedSite, read_deployed_site
from client.site.opened import divide
from client.site.policy import LAST_LAYER_IS, Policy, PrivacyBudget

REPORT_NAME = "check.json"


def preflight(site_path: Path, *, scenario: str | None, on_row: Callable[[CheckRow], None]) -> dict[str, Any]:
    """Check everything, and tell `on_row` of each row at once. The result is also written to state_dir/check.json,
    which stays at the site.

    Args:
        scenario: modalities to check, such as `T1,T2:PD` or `T1,T2,PD:any`; None = the usual ones of the layout.

    Returns:
        {"site", "checked", "ready": no row failed, "data": summary of the scans, "rows"}

    Raises:
        ConfigError: the site file or the scenario cannot be read.
    """
    site = read_deployed_site(site_path)
    scenario = scenario or LAYOUTS[site.data.layout].default_scenario
    wanted(scenario)  # a malformed one is named before anything is read
    summary: dict[str, Any] = {}

    def all_rows() -> Iterator[CheckRow]:
        nonlocal summary
        yield passed("site file", f"{site_path}, site {site.site}, scenario {scenario}")
        summary, subjects, scans = yield from check_data(site, scenario)
        yield from check_scenarios(site, scenario)
        yield from check_budgets(site, subjects, scans)
        yield _cache(Path(site.cache_dir))
        yield _last_layer(site.policy)
        yield from check_machine(site)
        yield _request_key(site)
        yield from check_connection(site.coordinator)
        yield _registration(site)

    rows = []
    for row in all_rows():
        rows.append(row)
        on_row(row)
    report = {
        "site": site.site,
        "checked": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "ready": all(row.state != CheckState.FAILED for row in rows),
        "data": summary,
        "rows": [asdict(row) for row in rows],
    }
    if Path(site.state_dir).is_dir():  # else a row says why not
        atomic.write_json(Path(site.state_dir) / REPORT_NAME, report)
    return report


def check_scenarios(site: DeployedSite, scenario: str) -> Iterator[CheckRow]:
    """Which cells of the study the site's rules allow, among those that it offers the modalities of. There is no row
    for a site without such a rule, nor where it offers nothing of the study."""
    rules, offered = site.policy, site.data.modalities
    every = parse_vocabulary(scenario).cells if is_vocabulary(scenario) else [parse_scenario(scenario)]
    cells = [cell for cell in every if offered is None or {*cell.modalities} <= {*offered}]
    if rules.scenarios is None or not cells:
        return
    what, allowed = "policy.scenarios", [str(cell) for cell in cells if rules.allows(str(cell))]
    if len(allowed) == len(cells):
        yield passed(what, f"{what} allows all that this site offers to {scenario}")
    elif allowed:
        found = f"{what} allows {'; '.join(allowed)} alone of the cells of {scenario}: this site refuses the others"
        yield warning(what, found, fix=f"nothing to do if that is right; else add {scenario} to {what}")
    else:
        fix = f"add {scenario} to {what} in the site file, or check the study you were told"
        yield failed(what, f"{what} allows {'; '.join(rules.scenarios)}, and not {scenario}", fix=fix)


def check_budgets(site: DeployedSite, usable: Sequence[Subject], scans: Sequence[Scan]) -> Iterator[CheckRow]:
    """What is spent of the site's privacy budgets on these subjects, and what is left. There are no rows for a site
    without privacy, nor where nobody can be used. A ledger that the running client holds is no fault."""
    if site.privacy is None or not usable:
        return
    from client.work.private_training import spent_at  # here, because Opacus takes seconds to import and is an option
    from client.work.site_ledger import has_begun

    try:
        check_different((scan.image, (scan.subject, scan.modality, scan.path)) for scan in scans)
        subjects = divide(Path(site.state_dir), usable, images_of_scans(usable, scans), tests=site.data.test_subjects)
        budgets: list[tuple[str, PrivacyBudget, Sequence[Subject]]] = [("training", site.privacy, subjects.train)]
        if site.privacy.validation:
            budgets.append(("validation", site.privacy.validation, subjects.validation))
        for what, budget, whose in budgets:
            for path in map(Path, (budget.ledger, budget.ledger_head)):
                if place := _closed(path):
                    fix = "correct its path in the site file, or the permissions there"
                    yield failed(f"{what} budget", f"{path} cannot be written: {place} does not allow it", fix=fix)
                    return
            known, begun = subjects.identities(whose), has_begun(site, budget)
            try:
                spent = spent_at(site, budget, subjects=known, delta=budget.delta)["epsilon"] if begun else 0.0
            except BusyError:
                found = f"{budget.ledger} is in use by the running client, so what is left is not known now"
                yield warning(f"{what} budget", found, fix="nothing to do; check again after the round of training")
                continue
            left = max(0.0, budget.epsilon - spent)
            found = f"epsilon {spent:.2f} of {budget.epsilon:g} spent, {left:.2f} left (delta {budget.delta:g})"
            fix = "the site sits out until its rules change, or with subjects never used before"
            yield passed(f"{what} budget", found) if left else warning(f"{what} budget", found, fix=fix)
    except AgiError as error:
        yield failed("privacy budget", str(error), fix="mend what is named; until then the site does not train")


def _closed(path: Path) -> Path | None:
    """The file, or else the nearest folder above it that is there, where this user cannot write it; else None."""
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    writable = os.access(nearest, os.W_OK) and (nearest == path or nearest.is_dir())
    return None if writable else nearest


def _cache(cache_dir: Path) -> CheckRow:
    if place := _closed(cache_dir / "train"):  # in a folder of it the prepared scans lie
        fix = "correct cache_dir in the site file, or the permissions there"
        return failed("cache", f"{cache_dir} cannot be written: {place} does not allow it", fix=fix)
    return passed("cache", f"{cache_dir} can be written")


def _last_layer(policy: Policy) -> CheckRow:
    what = "leaves after a study, as do statistics for one for all" if policy.share_last_layer else "stays here"
    said = f"policy.share_last_layer: {str(policy.share_last_layer).lower()}"
    return passed("own last layer", f"{what} ({said}); it is {LAST_LAYER_IS}")


def _request_key(site: DeployedSite) -> CheckRow:
    what, line = "requests' key", site.coordinator.public_key
    try:
        read_public_key(line)
    except AgiError as error:
        return failed(what, str(error), fix="ask the coordinator for coordinator.pub")
    return passed(what, f"{fingerprint(line)}; the coordinator reads the same to you by telephone")


def _registration(site: DeployedSite) -> CheckRow:
    """Whether the coordinator knows this site's key, as the node's log last said. Only a connection can tell."""
    what, log_path = "registration", Path(site.state_dir) / "logs" / "node.log"
    log = log_path.read_text(errors="replace", encoding="utf-8") if log_path.is_file() else ""
    told = re.findall(r"SuperNode ID: \d+|\[code: 200[14]\]", log)
    if not told:
        return warning(
            what,
            "not known before the first connection",
            fix="ask the coordinator whether this key's fingerprint is registered, then start the client",
        )
    if told[-1].startswith("SuperNode"):
        return passed(what, f"the coordinator accepted this site's key when it last connected ({log_path})")
    return failed(
        what,
        f"the coordinator refused this site's key at the last attempt {told[-1]}",
        fix="ask the coordinator to register the .pub file beside key_file, then start the client",
    )
