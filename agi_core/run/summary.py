"""`summary.json`: the figures of a run that was tested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agi_core.config.schema import RunConfig
from agi_core.host import atomic
from agi_core.models.model_config import name_of
from agi_core.run.event_log import events_of
from agi_core.run.events import (
    IntervalSolved,
    LastLayerSolved,
    LastLayersShared,
    ModelTested,
    ModelValidated,
    RangeLearnt,
)
from agi_core.run.json_objects import Json, JsonObject
from agi_core.run.sanity import sanity_flags
from agi_core.run.scores import Best, Scores

FILE_NAME = "summary.json"
_OF_SIMULATIONS = ("synthetic", "anatomies", "privacy", "delta")


@dataclass(frozen=True, kw_only=True)
class Summary(JsonObject):
    """The final test with what it is of. In JSON the fields of `scores` stand beside the others.

    The last four are known to a simulation alone, and a deployed run's file leaves them out: whether the scans are
    built-in synthetic data, how many brains that data is made from, what each site has spent of its privacy budget
    ({site: {"epsilon": ...}}; empty without privacy), and at which delta.
    """

    scores: Scores
    personal: Scores | None = None  # of each site's own last layer, at that site
    interval: IntervalSolved | None = None  # None: nobody was asked, as in a private run
    known_range: RangeLearnt | None = None  # the same
    last_layer: LastLayerSolved | None = None  # of the common model; None: nobody was asked
    styles: LastLayersShared | None = None  # the same
    suppressed: Sequence[str] = ()  # sites that hold test figures back
    flags: Sequence[str] = ()  # what is suspicious in these figures, see `agi_core.run.sanity`
    baselines: Mapping[str, Scores] = field(default_factory=dict)
    best: Best | None = None
    rounds: int
    wall_s: float
    scenario: str
    reference: str | None
    model: str
    unseen_anatomy: str | None = None  # on which nobody trained or validated
    synthetic: bool | None = None
    anatomies: int | None = None
    privacy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    delta: float | None = None

    @property
    def columns(self) -> dict[str, Scores]:
        """What each site can have, on the same subjects: its own model alone, the common one, the common one with a
        last layer of its own; those of them that were scored."""
        columns = {"alone": self.baselines.get("local_only"), "global": self.scores, "personal": self.personal}
        return {name: scores for name, scores in columns.items() if scores is not None}

    def to_json(self) -> Json:
        values = super().to_json()
        if self.synthetic is None:
            values = {name: value for name, value in values.items() if name not in _OF_SIMULATIONS}
        unasked = ("personal", "interval", "known_range", "last_layer", "styles", "unseen_anatomy")
        values = {name: value for name, value in values.items() if value is not None or name not in unasked}
        values["columns"] = {name: scores.to_json() for name, scores in self.columns.items()}
        values["baselines"] = {name: {**scores.final, **scores.to_json()} for name, scores in self.baselines.items()}
        return {**values.pop("scores"), **values}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        return super().from_json({**values, "scores": values})


def summarise(
    run_dir: Path,
    config: RunConfig,
    *,
    wall_s: float,
    baselines: Mapping[str, Scores] | None = None,
    personal: Scores | None = None,
    faults: Sequence[str] = (),
) -> Summary:
    """The summary of a run by its final test. `personal` are figures that its sites do not tell, but a simulation;
    `faults` are what else is suspicious in its predictions."""
    tested, baselines = events_of(run_dir, ModelTested)[-1], baselines or {}
    personal = personal or tested.personal
    intervals, ranges = events_of(run_dir, IntervalSolved), events_of(run_dir, RangeLearnt)
    solved, shared = events_of(run_dir, LastLayerSolved), events_of(run_dir, LastLayersShared)
    validated = {event.round: event.mean for event in events_of(run_dir, ModelValidated)}  # the last of each round
    validation_db = [mean["psnr_db"] for _, mean in sorted(validated.items()) if mean]
    # Scored where the target lies, which only a regression at the target's own place was fitted for.
    rivals = {n: its for n, its in baselines.items() if not (config.training.align_target and n == "voxel_regression")}
    return Summary(
        scores=tested.scores,
        baselines=baselines,
        flags=[
            *sanity_flags(tested.scores, baselines=rivals, validation_db=validation_db, personal=personal),
            *faults,
        ],
        personal=personal,
        interval=intervals[-1] if intervals else None,
        known_range=ranges[-1] if ranges else None,
        last_layer=solved[-1] if solved else None,
        styles=shared[-1] if shared else None,
        suppressed=tested.suppressed,
        best=tested.best,
        rounds=config.rounds,
        wall_s=round(wall_s, 1),
        scenario=config.scenario,
        reference=config.reference,
        model=name_of(config.model),
        unseen_anatomy=config.data.unseen_anatomy,
    )


def write_summary(run_dir: Path, summary: Summary) -> None:
    """Write `summary.json`. A figure is a number or it is absent: NaN and infinity are refused (ValueError)."""
    atomic.write_json(run_dir / FILE_NAME, summary.to_json())


def read_summary(run_dir: Path) -> Summary | None:
    """The summary of a run; None where it has none yet.

    Raises:
        RunError: the file is damaged.
    """
    return Summary.read(run_dir / FILE_NAME)
