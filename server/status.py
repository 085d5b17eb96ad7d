"""What a run is doing: kept up to date by the ServerApp while it works, read by `python -m server status`."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agi_core.errors import AgiError
from agi_core.host import atomic
from agi_core.protocol import TRAIN
from agi_core.run import run_folder
from agi_core.run.progress import Event, Step
from agi_core.run.run_folder import Event as RunEvent
from server import run_state

NOW = "now.json"  # in the run folder: the exchange that is going on


def follow(run_dir: Path, news: Step | Event) -> None:
    """Listen in the process that works on the run: keep `now.json`, and print a line per event."""
    if isinstance(news, Step):
        return
    if news["event"] == "exchange":
        with contextlib.suppress(AgiError):  # a full disk is noted where more than this is lost
            atomic.write_json(run_dir / NOW, dict(news))
    elif (line := describe(news)) is not None:
        print(f"{run_dir.name}: {line}", flush=True)


def describe(event: Event) -> str | None:
    """One line for a person; None for events that say nothing new."""
    match event:
        case {"event": "waiting", "round": round, "sites": sites, "limit_s": limit_s}:
            return f"round {round}: waiting up to {limit_s:.0f} s for {', '.join(sites)} to connect"
        case {"event": "round_started", "round": round}:
            return f"round {round}: sites are training"
        case {
            "event": "site_failed" | "site_missing",
            "round": round,
            "site": site,
            "action": action,
            "reason": reason,
        }:
            return f"round {round}: {site}: {action}: {reason}"
        case {"event": "update_refused", "round": round, "site": site, "reason": reason}:
            return f"round {round}: {site}: update refused: {reason}"
        case {"event": "update_clipped", "round": round, "site": site, "reason": reason}:
            return f"round {round}: {site}: {reason}"
        case {"event": "site_quarantined", "round": round, "site": site}:
            return f"round {round}: {site} is in quarantine; let it out with: python -m server release {site}"
        case {"event": "site_sat_out", "round": round, "site": site, "reason": reason}:
            return f"round {round}: {site} sits out: {reason}"
        case {"event": "rolled_back", "round": round, "to": best, "sites": sites}:
            return f"the model after round {round} is worse at {', '.join(sites)}: back to that after round {best}"
        case {"event": "retried", "round": round, "action": action}:
            return f"round {round}: too few answers; asking again to {action}"
        case {"event": "round_finished", "round": round, "sites": sites}:
            return f"round {round}: averaged {', '.join(sites)}"
        case {"event": "validated", "round": round, "mean": {"psnr_db": psnr_db}}:
            return f"after round {round}: validation {psnr_db:.2f} dB"
        case {"event": "validated", "round": round, "suppressed": [*sites]} if sites:
            return f"after round {round}: validation is suppressed at {', '.join(sites)}"
        case {"event": "tested", "final": {"psnr_db": psnr_db}}:
            return f"final test: {psnr_db:.2f} dB"
        case {"event": "paused", "reason": reason}:
            return f"paused: {reason}"
        case {"event": "resumed", "round": round}:
            return f"resumed after round {round}"
    return None


def run_status(run_dir: Path) -> dict[str, Any]:
    """The run as its folder shows it. `state`: running, finished, paused, or interrupted (stopped or killed).

    Raises:
        RunError: there is no run in the folder.
    """
    config = run_folder.open_existing(run_dir)
    events = run_folder.read_events(run_dir) if (run_dir / "events.jsonl").is_file() else []
    round = max((event["round"] for event in events if event["event"] in ("round_started", "waiting")), default=0)
    validations = [event for event in reversed(events) if event["event"] == "validated"]
    last, validated = next(iter(validations), None), next((event for event in validations if event["mean"]), None)
    status: dict[str, Any] = {
        "name": run_dir.name,
        "state": _state(run_dir, events),
        "round": round,
        "rounds": config.rounds,
        "validation_psnr_db": validated["mean"]["psnr_db"] if validated else None,
        "waiting_for": [],
        "answered": [],
        "failed": _named(events, "site_failed", "site_missing", round=round),
        "refused": _named(events, "update_refused", round=round),
        "sitting_out": _sitting_out(events),
        "suppressed": last.get("suppressed", []) if last else [],
    }
    if status["state"] == "running":
        shown = ("action", "waiting_for", "answered")
        status |= {name: value for name, value in _now(run_dir).items() if name in shown}
        busy = {*status["waiting_for"], *status["answered"]}  # who failed and was asked again
        status["failed"] = [site for site in status["failed"] if site not in busy]
    if status["state"] == "paused":
        status["reason"] = events[-1]["reason"]
    return status


def _state(run_dir: Path, events: list[RunEvent]) -> str:
    if run_state.is_held(run_dir):
        return "running"
    if (run_dir / "summary.json").is_file():
        return "finished"
    return "paused" if events and events[-1]["event"] == "paused" else "interrupted"


def _named(events: list[RunEvent], *names: str, round: int) -> list[str]:
    return sorted({event["site"] for event in events if event["event"] in names and event["round"] == round})


def _sitting_out(events: list[RunEvent]) -> dict[str, str]:
    """{site: why} of those that have not answered since they said so."""
    out: dict[str, str] = {}
    for event in events:
        if event["event"] == "site_sat_out" and event["action"] == TRAIN:
            out[event["site"]] = event["reason"]
        elif event["event"] == "round_finished":
            out = {site: reason for site, reason in out.items() if site not in event["sites"]}
    return out


def _now(run_dir: Path) -> Mapping[str, Any]:
    try:
        now: dict[str, Any] = json.loads((run_dir / NOW).read_text())
    except (OSError, ValueError):
        return {}
    return now
