"""The words of `python -m server status`."""

from collections.abc import Iterator, Mapping

from server.status import NOT_HELD, CoordinatorStatus, RunStatus
from server.strikes import QUARANTINED_AT

LISTED = ("done", "next", NOT_HELD)


def status_text(current: CoordinatorStatus) -> str:
    """The coordinator, its sites and its runs, line by line; the newest run in full."""
    if not current.exists and not current.alive:
        return "no coordinator in this folder; --dir names another one, and python -m server certs begins a new one"
    earlier = (line for run in current.earlier for line in _earlier_lines(run))
    lines = (*_site_lines(current), *_run_lines(current.run), *earlier)
    return "\n".join((f"coordinator: {_in_words(current)}", *lines))


def _in_words(current: CoordinatorStatus) -> str:
    if current.reachable:
        return "running"
    if current.alive:
        return "alive, but it does not answer; see superlink.log, or stop it and start it again: python -m server up"
    return "not running; start it with: python -m server up"


def _site_lines(current: CoordinatorStatus) -> Iterator[str]:
    width = max(map(len, current.sites), default=0)
    for name, site in current.sites.items():
        size = f"  {site.subjects} subjects" if site.subjects else ""
        yield f"  {name:<{width}}  {site.status:<10}  last seen {site.last_seen or 'never'}{size}"
        if site.strikes:
            state = "in quarantine; let it out with" if site.strikes >= QUARANTINED_AT else "forget with"
            yield f"  {'':<{width}}  {site.strikes} refused replies; {state}: python -m server release {name}"
    if not current.sites:
        yield "  no site is registered yet"


def _run_lines(run: RunStatus | None) -> Iterator[str]:
    if run is None:
        yield "no run yet; start one with: python -m server submit"
        return
    yield _headline(run)
    doing = f" ({run.action})" if run.action else ""
    cells = run.cells or {}
    for heading, names in (
        *((f"cells {word}", [cell for cell, its in cells.items() if its == word]) for word in LISTED),
        (f"waiting for{doing}", run.waiting_for),
        ("answered", run.answered),
        ("failed", _with_reasons(run.failed)),
        ("refused", _with_reasons(run.refused)),
        *((f"sits out: {site}", [reason]) for site, reason in run.sitting_out.items()),
        ("figures suppressed by the site's policy", run.suppressed),
    ):
        if names:
            yield f"  {heading}: {', '.join(names)}"
    yield from (f"  {line}" for line in run.end or ())
    if run.reason:
        yield f"  {run.reason}"
    if run.state in ("paused", "interrupted"):
        yield f"  go on with: python -m server resume {run.name}"


def _earlier_lines(run: RunStatus) -> Iterator[str]:
    yield _headline(run)
    if run.state == "damaged":
        yield f"  {run.reason}"


def _headline(run: RunStatus) -> str:
    if run.state == "damaged":
        return f"run {run.name}: damaged"
    score = f", validation {run.validation_psnr_db:.2f} dB" if run.validation_psnr_db is not None else ""
    rounds = f"round {run.round}/{run.rounds}{score}"
    if run.cells is None:
        return f"run {run.name}: {run.state}, {rounds}"
    count, words = len(run.cells), [*run.cells.values()]
    now = words.index("now") if "now" in words else None
    trained = f"{words.count('done')} cells are trained"
    doing = trained if now is None else f"cell {now + 1} of {count}, {[*run.cells][now]}, {rounds}"
    return f"run {run.name}: {run.state}, {doing}"


def _with_reasons(sites: Mapping[str, str]) -> list[str]:
    return [f"{site} ({reason})" if reason else site for site, reason in sites.items()]
