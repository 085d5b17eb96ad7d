"""What happens in a run: a class for each kind of event, and the table of all kinds.

An event is one line of `events.jsonl` (`agi_core.run.event_log`) and news for those who listen
(`agi_core.run.progress`). Rounds count from 1; the model after round 0 is the untrained one. A new kind is a class
with its name, which becomes a frozen dataclass of keyword arguments.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar, Self, dataclass_transform

from agi_core.run.json_objects import Json, JsonObject
from agi_core.run.scores import Best, Metrics, Scores, SiteScores

KINDS: dict[str, type["Event"]] = {}
"""{kind, as in `events.jsonl`: its class}; each class enters itself."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Event(JsonObject):
    """Any event. A line whose kind this release does not know is read as a plain `Event`."""

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str | None = None) -> None:
        dataclass(frozen=True, kw_only=True)(cls)
        if kind is not None:
            cls.kind = kind
            KINDS[kind] = cls


class DataFound(Event, kind="data_found"):
    """A simulation has found its scans and divided them: subjects of each site, scans left out by reason.

    `synthetic` tells whether the scans are built-in data, and `anatomies` how many brains that data is made from.
    """

    text: str
    sites: Mapping[str, int]
    unseen_sites: Mapping[str, int]
    synthetic: bool | None = None
    anatomies: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)


class Warned(Event, kind="warning"):
    """Something that the user should know of the data."""

    text: str


class RunStarted(Event, kind="run_started"):
    """The first round of a new run is about to begin."""

    run_id: str
    sites: Sequence[str]
    unseen_sites: Sequence[str]


class RunResumed(Event, kind="resumed"):
    """An interrupted run goes on after `round`, its last finished one."""

    round: int


class RunPaused(Event, kind="paused"):
    """The run cannot go on; `round` is the last finished one."""

    round: int
    reason: str


class PosesMeasured(Event, kind="poses_measured"):
    """What the sites told of the distances between sources and target, and what was chosen by them, in a sentence."""

    sites: Mapping[str, Mapping[str, float]]
    chosen: str


class PriorSolved(Event, kind="prior_solved"):
    """The common prior was solved from the statistics of `sites`; it stays as it was where these are none. `why` says
    so where some did tell theirs."""

    sites: Sequence[str]
    why: str = ""


class CellNotHeld(Event, kind="cell_not_held"):
    """Nobody trains `cell`: of the sites that offer all its modalities, none has a subject with them all."""

    cell: str
    sites: Sequence[str]

    @property
    def said(self) -> str:
        """In a sentence."""
        sites = " or ".join(self.sites)
        return f"nobody trains it: no subject of {sites} has all its modalities, which are offered there"


class BlendSolved(Event, kind="blend_solved"):
    """The weights of the trained cells that make `cell`, which nobody could train: from their mean squared errors and
    disagreements (by `FIRST SECOND`) as far as sites told them. `measured`: all errors are known; else the weights are
    equal."""

    cell: str
    weights: Mapping[str, float]
    measured: bool
    errors: Mapping[str, float] = field(default_factory=dict)
    disagreements: Mapping[str, float] = field(default_factory=dict)


class BlendTested(Event, kind="blend_tested"):
    """The blend of these experts was scored at the sites that hold all of `cell` and train nothing; None: at none.
    `said` tells in words what each of them reached, and why there is no figure."""

    cell: str
    weights: Mapping[str, float]
    said: str
    scores: Scores | None = None


class RoundStarted(Event, kind="round_started"):
    """The sites are asked to train."""

    round: int


class RoundFinished(Event, kind="round_finished"):
    """`sites` have trained; their updates are in the next model, or dropped where the run has just rolled back. Loss,
    seconds and training subjects are those that the sites told."""

    round: int
    sites: Sequence[str] = field(default_factory=list)
    train_loss: Mapping[str, float]
    seconds: Mapping[str, float]
    subjects: Mapping[str, int] = field(default_factory=dict)


class ModelValidated(Event, kind="validated"):
    """The validation of the model after `round`: the mean over subjects, each site's own, and who suppresses it."""

    round: int
    mean: Metrics
    sites: SiteScores
    suppressed: Sequence[str] = field(default_factory=list)


class ModelRolledBack(Event, kind="rolled_back"):
    """The model after `round` was worse at `sites`: the run goes on from the one after round `to`."""

    round: int
    to: int
    sites: Sequence[str]


def made_in(back: Iterable[ModelRolledBack], *, round: int) -> int:
    """The round that the weights after `round` were made in. It is an earlier one where the run went back, which is
    seen a round later: the updates of that round are left aside."""
    return [round, *(event.to for event in back if event.round in (round - 1, round))][-1]


class ModelTested(Event, kind="tested"):
    """The final test. In JSON the fields of `scores` stand beside the others. `personal`: of each site's own last layer
    at that site."""

    scores: Scores
    personal: Scores | None = None
    suppressed: Sequence[str] = field(default_factory=list)
    best: Best | None = None

    def to_json(self) -> Json:
        values = super().to_json()
        if self.personal is None:
            del values["personal"]
        return {**values.pop("scores"), **values}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        return super().from_json({**values, "scores": values})


_MOST_NAMED = 10  # sites in a line; the event has all


class LastLayerSolved(Event, kind="last_layer_solved"):
    """The last layer of the last model was solved from the statistics of `sites`, or stays as it was trained: `why`
    says so. `gains` are those in validation PSNR, in dB, of the sites that told both figures; `left_out` are the
    training sites that told no statistics."""

    sites: Sequence[str]
    left_out: Sequence[str] = field(default_factory=list)
    gains: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    @property
    def said(self) -> str:
        """In a line."""
        if self.why:
            return f"the last layer stays as it was trained: {self.why}"
        without = f", without {_named(self.left_out)}" if self.left_out else ""
        gain = f"; validation {fmean(self.gains.values()):+.2f} dB" if self.gains else ""
        if losing := {site: db for site, db in self.gains.items() if db <= -0.005}:
            worst = min(losing, key=losing.__getitem__)
            gain += f", worst at {worst} with {losing[worst]:+.2f} dB"
        return f"the last layer is solved from statistics of {_named(self.sites)}{without}{gain}"


def _named(sites: Sequence[str]) -> str:
    return ", ".join(sites) if len(sites) <= _MOST_NAMED else f"{len(sites)} sites"


class IntervalSolved(Event, kind="interval_solved"):
    """The 90 % interval over the federation in a sentence: prediction -+ `factor` expected errors; None: there is none.

    It stands on the validation subjects of these sites ({site: how many}); `covered` is the share of each site's voxels
    that it covers. `left_out` are the other training sites.
    """

    said: str
    factor: float | None = None
    subjects: Mapping[str, int] = field(default_factory=dict)
    covered: Mapping[str, float] = field(default_factory=dict)
    left_out: Sequence[str] = field(default_factory=list)


class RangeLearnt(Event, kind="range_learnt"):
    """The known range over the federation in a sentence, of so many training subjects of these sites, or why there is
    none. `left_out` are the other training sites."""

    said: str
    subjects: Mapping[str, int] = field(default_factory=dict)
    left_out: Sequence[str] = field(default_factory=list)


class LastLayersShared(Event, kind="last_layers_shared"):
    """The training sites whose own last layer the run now has (`synthesize --style`), and those that keep theirs."""

    sites: Sequence[str]
    left_out: Sequence[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """In a line."""
        if not self.sites:
            return "no site shares its own last layer (policy.share_last_layer, and enough subjects for its policy)"
        without = f"; without {', '.join(self.left_out)}" if self.left_out else ""
        return f"last layers for synthesize --style: {', '.join(self.sites)}{without}"


class BaselineFinished(Event, kind="baseline_finished"):
    """A baseline was scored; the others as in `Scores`."""

    name: str
    final: Metrics
    sites: SiteScores = field(default_factory=dict)
    unseen_sites: SiteScores = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, scores: Scores) -> Self:
        return cls(name=name, final=scores.final, sites=scores.sites, unseen_sites=scores.unseen_sites)

    @property
    def scores(self) -> Scores:
        return Scores(self.final, self.sites, self.unseen_sites)


class RunFinished(Event, kind="run_finished"):
    """Everything that a simulation was asked for is done."""


class Waiting(Event, kind="waiting"):
    """These sites are not connected, and are waited for."""

    round: int
    sites: Sequence[str]
    limit_s: float


class Retried(Event, kind="retried"):
    """Too few sites have answered, so the others are asked again."""

    round: int
    action: str
    answered: Sequence[str]


class Exchanging(Event, kind="exchange"):
    """Who has answered the request of this moment. It is for listeners, and never a line of `events.jsonl`."""

    round: int
    action: str
    waiting_for: Sequence[str]
    answered: Sequence[str] = field(default_factory=list)
    failed: Sequence[str] = field(default_factory=list)


class SiteEvent(Event):
    """What all events of one site have."""

    site: str
    round: int


class SiteFailed(SiteEvent, kind="site_failed"):
    """A site has answered that it cannot do what it was asked for, or its answer cannot be used."""

    action: str
    reason: str


class SiteMissing(SiteEvent, kind="site_missing"):
    """A site was not there, or has not answered."""

    action: str
    reason: str = ""


class SiteSatOut(SiteEvent, kind="site_sat_out"):
    """A site does not take part, which is its right: its budget is spent, or its policy forbids the request."""

    action: str
    reason: str


class UpdateClipped(SiteEvent, kind="update_clipped"):
    """A site's update was too large and was scaled down."""

    reason: str


class UpdateRefused(SiteEvent, kind="update_refused"):
    """A site's reply was refused, which is its `strikes`-th strike."""

    reason: str
    strikes: int = 0


class SiteQuarantined(SiteEvent, kind="site_quarantined"):
    """A site has so many strikes that it is not asked any more."""
