"""What a run's own process tells while it works: `now.json` for `python -m server status`, and a line per event."""

import contextlib
from pathlib import Path

from agi_core.cells import name_of
from agi_core.errors import AgiError
from agi_core.host import atomic
from agi_core.run import events
from agi_core.run.progress import News, Refused, Step
from agi_core.run.scores import Scores

NOW = "now.json"  # in the run folder: the exchange that is going on


def follow(run_dir: Path, news: News) -> None:
    """Listen in the process that works on the run: keep `now.json`, and print a line per event."""
    if isinstance(news, Step | Refused):
        return
    if isinstance(news, events.Exchanging):
        with contextlib.suppress(AgiError):  # a full disk is noted where more than this is lost
            atomic.write_json(run_dir / NOW, {"event": news.kind, **news.to_json()})
    elif (line := describe(news)) is not None:
        print(f"{name_of(run_dir)}: {line}", flush=True)


def describe(event: events.Event) -> str | None:
    """One line for a person; None for events that say nothing new."""
    match event:
        case events.Waiting(round=round, sites=sites):
            return f"round {round}: waiting up to {event.limit_s:.0f} s for {', '.join(sites)} to connect"
        case events.PosesMeasured(chosen=chosen):
            return chosen
        case events.PriorSolved(why=why) if why:
            return f"{why}, so the common prior stays as it was"
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
            return f"round {round}: trained at {', '.join(sites)}"
        case events.ModelValidated(round=round, mean={"psnr_db": psnr_db}):
            return f"after round {round}: validation {psnr_db:.2f} dB"
        case events.ModelValidated(round=round, suppressed=[_, *_] as sites):
            return f"after round {round}: validation is suppressed at {', '.join(sites)}"
        case events.ModelTested(scores=Scores(final={"psnr_db": psnr_db})):
            return f"final test: {psnr_db:.2f} dB"
        case events.IntervalSolved(said=said) | events.RangeLearnt(said=said):
            return said
        case events.LastLayersShared() | events.LastLayerSolved():
            return event.said
        case events.BaselineFinished(name=name, final={"psnr_db": psnr_db}, sites=sites):
            what = "alone" if name == "local_only" else name.replace("_", " ")
            return f"{what}, a mean over {', '.join(sites)}: {psnr_db:.2f} dB"
        case events.CellNotHeld(cell=cell):
            return f"{cell}: {event.said}"
        case events.BlendSolved(cell=cell, weights=weights):
            return f"{cell} is a blend of {', '.join(f'{expert} {weight:.2f}' for expert, weight in weights.items())}"
        case events.BlendTested(cell=cell):
            return f"{cell}, a blend: {event.said}"
        case events.RunPaused():
            return f"paused: {event.reason}"
        case events.RunResumed(round=round):
            return f"resumed after round {round}"
    return None
