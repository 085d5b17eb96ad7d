"""Who took part: what each invited site did in each round."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from agi_core.protocol import TRAIN
from agi_core.run import events


class Part(StrEnum):
    """What a site did in a round. `MISSING`: it was not there, or did not answer in time."""

    TRAINED = "trained"
    MISSING = "missing"
    FAILED = "failed"
    REFUSED = "refused"
    SAT_OUT = "sat out"
    QUARANTINED = "in quarantine"
    NOT_YET = "not yet invited"


Participation = Mapping[str, Mapping[int, Part]]  # {site: {finished round: what it did}}


def participation(happened: Sequence[events.Event], sites: Sequence[str]) -> Participation:
    """By the events of a run. A round that stands twice in the log, as after a resume, counts as it did last."""
    parts: dict[str, dict[int, Part]] = {site: {} for site in sites}
    noted: dict[tuple[str, int], Part] = {}
    lasting: dict[str, Part] = {}
    for event in happened:
        if isinstance(event, events.SiteEvent) and lasting.get(event.site) == Part.NOT_YET:
            lasting.pop(event.site)  # it has joined since, and there is news of it
        match event:
            case events.RunStarted(sites=invited):
                lasting.update({site: Part.NOT_YET for site in sites if site not in invited})
            case events.SiteSatOut(site=site, action=action) if action == TRAIN:
                lasting[site] = Part.SAT_OUT
            case events.SiteQuarantined(site=site):
                lasting[site] = Part.QUARANTINED
            case events.UpdateRefused(site=site, round=round):
                noted[site, round] = Part.REFUSED
            case events.SiteFailed(site=site, round=round, action=action) if action == TRAIN:
                noted[site, round] = Part.FAILED
            case events.SiteMissing(site=site, round=round, action=action) if action == TRAIN:
                noted.setdefault((site, round), Part.MISSING)
            case events.RoundFinished(round=round):
                trained = {*event.sites, *event.train_loss}
                for site in sites:
                    if site in trained:
                        lasting.pop(site, None)
                        parts[site][round] = Part.TRAINED
                    else:
                        parts[site][round] = noted.get((site, round)) or lasting.get(site, Part.MISSING)
    return parts
