"""What a run is doing: kept up to date by the ServerApp while it works, read by `python -m server status`."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agi_core.errors import AgiError
from agi_core.host import atomic
from agi_core.protocol import TRAIN
from agi_core.run import events, run_folder
from agi_core.run.event_log import read_events
from agi_core.run.progress import News, Step
from agi_core.run.scores import Scores
from server import run_state

NOW = "now.json"  # in the run folder: the exchange that is going on


def follow(run_dir: Path, news: News) -> None:
    """Listen in the process that works on the run: keep `now.json`, and print a line per event."""
    if isinstance(news, Step):
        return
    if isinstance(news, events.Exchanging):
        with contextlib.suppress(AgiError):  # a full disk is noted where more than this is lost
            atomic.write_json(run_dir / NOW, {"event": news.kind, **news.to_json()})
    elif (line := describe(news)) is not None:
        print(f"{run_dir.name}: {line}", flush=True)


def describe(event: events.Event) -> str | None:
    """One line for a person; None for events that say nothing new."""
    match event:
        case events.Waiting(round=round, sites=sites):
            return f"round {round}: waiting up to {event.limit_s:.0f} s for {', '.join(sites)} to connect"
        case events.RoundStarted(round=round):
            return f"round {round}: sites are training"
        case events.SiteFailed(round=round, site=site) | events.SiteMissing(round=round, site=site):
            return f"round {round}: {site}: {event.action}: {event.reason}"
        case events.UpdateRefused(round=round, site=site):
            return f"round {round}: {site}: update refused: {event.reason}"
        case events.UpdateClipped(round=round, site=site):
            return f"round {round}: {site}: {event.reason}"
        case events.SiteQuarantined(round=round, site=site):
            return f"round {round}: {site} is in quarantine; let it out with: python -m server release {site}"
        case events.SiteSatOut(round=round, site=site):
            return f"round {round}: {site} sits out: {event.reason}"
        case events.ModelRolledBack(round=round, to=best, sites=sites):
            return f"the model after round {round} is worse at {', '.join(sites)}: back to that after round {best}"
        case events.Retried(round=round):
            return f"round {round}: too few answers; asking again to {event.action}"
        case events.RoundFinished(round=round, sites=sites):
            return f"round {round}: averaged {', '.join(sites)}"
        case events.ModelValidated(round=round, mean={"psnr_db": psnr_db}):
            return f"after round {round}: validation {psnr_db:.2f} dB"
        case events.ModelValidated(round=round, suppressed=[_, *_] as sites):
            return f"after round {round}: validation is suppressed at {', '.join(sites)}"
        case events.ModelTested(scores=Scores(final={"psnr_db": psnr_db})):
            return f"final test: {psnr_db:.2f} dB"
        case events.RunPaused():
            return f"paused: {event.reason}"
        case events.RunResumed(round=round):
            return f"resumed after round {round}"
    return None


def run_status(run_dir: Path) -> dict[str, Any]:
    """The run as its folder shows it. `state`: running, finished, paused, or interrupted (stopped or killed).

    Raises:
        RunError: there is no run in the folder.
    """
    config = run_folder.open_existing(run_dir)
    log = read_events(run_dir) if (run_dir / "events.jsonl").is_file() else []
    happened = [event for _, event in log]
    round = max(
        (event.round for event in happened if isinstance(event, events.RoundStarted | events.Waiting)), default=0
    )
    validations = [event for event in reversed(happened) if isinstance(event, events.ModelValidated)]
    last, validated = next(iter(validations), None), next((event for event in validations if event.mean), None)
    status: dict[str, Any] = {
        "name": run_dir.name,
        "state": _state(run_dir, happened),
        "round": round,
        "rounds": config.rounds,
        "validation_psnr_db": validated.mean["psnr_db"] if validated else None,
        "waiting_for": [],
        "answered": [],
        "failed": _sites(happened, events.SiteFailed, events.SiteMissing, round=round),
        "refused": _sites(happened, events.UpdateRefused, round=round),
        "sitting_out": _sitting_out(happened),
        "suppressed": last.suppressed if last else [],
    }
    if status["state"] == "running" and (now := _now(run_dir)):
        status |= {"action": now.action, "waiting_for": now.waiting_for, "answered": now.answered}
        busy = {*status["waiting_for"], *status["answered"]}  # who failed and was asked again
        status["failed"] = [site for site in status["failed"] if site not in busy]
    if status["state"] == "paused":
        (status["reason"],) = [event.reason for event in happened[-1:] if isinstance(event, events.RunPaused)]
    return status


def _state(run_dir: Path, happened: Sequence[events.Event]) -> str:
    if run_state.is_held(run_dir):
        return "running"
    if (run_dir / "summary.json").is_file():
        return "finished"
    return "paused" if happened and isinstance(happened[-1], events.RunPaused) else "interrupted"


def _sites(happened: Sequence[events.Event], *kinds: type[events.SiteEvent], round: int) -> list[str]:
    """The sites that events of these kinds name in this round."""
    return sorted({event.site for event in happened if isinstance(event, kinds) and event.round == round})


def _sitting_out(happened: Sequence[events.Event]) -> dict[str, str]:
    """{site: why} of those that have not answered since they said so."""
    out: dict[str, str] = {}
    for event in happened:
        if isinstance(event, events.SiteSatOut) and event.action == TRAIN:
            out[event.site] = event.reason
        elif isinstance(event, events.RoundFinished):
            out = {site: reason for site, reason in out.items() if site not in event.sites}
    return out


def _now(run_dir: Path) -> events.Exchanging | None:
    """The exchange that is going on; None where there is none yet, or its file cannot be read."""
    try:
        return events.Exchanging.from_json(json.loads((run_dir / NOW).read_text()))
    except (OSError, ValueError, TypeError):
        return None
