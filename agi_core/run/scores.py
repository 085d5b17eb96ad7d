"""Scores: what a model reaches on the subjects of the sites, as events, baselines, summary and report hold it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from agi_core.metric_table import FAULTY, METRIC_NAMES, SEGMENTED_METRIC_NAMES, TISSUE_METRIC_NAMES
from agi_core.run.json_objects import Json, JsonObject

TEST_METRIC_NAMES = (*METRIC_NAMES, *TISSUE_METRIC_NAMES, *SEGMENTED_METRIC_NAMES, FAULTY)
Metrics = Mapping[str, float]  # {one of TEST_METRIC_NAMES: mean over subjects}


@dataclass(frozen=True)
class SiteScore(JsonObject):
    """Means over the scored subjects of one site, and how many these are.

    `metrics` holds psnr_db; others are missing where the site holds them back. In JSON all of it is one flat object.
    """

    metrics: Metrics
    subjects: int

    @property
    def psnr_db(self) -> float:
        """PSNR of the whole volume, in dB."""
        return self.metrics["psnr_db"]

    def to_json(self) -> Json:
        return {**self.metrics, "subjects": self.subjects}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        return cls({name: value for name, value in values.items() if name != "subjects"}, values["subjects"])


SiteScores = Mapping[str, SiteScore]  # {site: ...}


@dataclass(frozen=True)
class Scores(JsonObject):
    """Final test of one method. `final` is the mean over the test subjects of the training sites; it is empty where
    there are none. An unseen site took no part in training.

    `unseen_by_model` is for local-only training, which makes one model per site: {the model's site: its scores at the
    unseen sites}. In `unseen_sites` stands the mean over these models.
    """

    final: Metrics
    sites: SiteScores = field(default_factory=dict)
    unseen_sites: SiteScores = field(default_factory=dict)
    unseen_by_model: Mapping[str, SiteScores] = field(default_factory=dict)

    @classmethod
    def over(
        cls, sites: SiteScores, unseen_sites: SiteScores, unseen_by_model: Mapping[str, SiteScores] | None = None
    ) -> Self:
        """The scores of these sites, with `final` as their mean."""
        return cls(over_subjects(sites), sites, unseen_sites, unseen_by_model or {})

    def among(self, sites: Collection[str]) -> Self:
        """The scores of those of its training sites that are among these."""
        return self.over({site: score for site, score in self.sites.items() if site in sites}, {})

    def at_both(self, other: "Scores") -> "tuple[Scores, Scores]":
        """This method and another over the training sites that have both: else a difference would be one of sites."""
        both = {*self.sites} & {*other.sites}
        return self.among(both), other.among(both)

    def gain_db(self, over: "Scores") -> float | None:
        """PSNR of this method minus that of another at the training sites that have both; None where there are none."""
        ours, theirs = (its.final.get("psnr_db") for its in self.at_both(over))
        return None if ours is None or theirs is None else ours - theirs

    @property
    def worst_site(self) -> str | None:
        """The training site with the lowest PSNR of the whole volume; None where none was scored."""
        return min(self.sites, key=lambda site: self.sites[site].psnr_db, default=None)

    @property
    def subjects(self) -> int:
        """Test subjects of the training sites."""
        return sum(score.subjects for score in self.sites.values())

    @property
    def unseen(self) -> "Scores":
        """Those of the unseen sites, as if they were training sites: `final` is the mean over all their subjects."""
        return Scores.over(self.unseen_sites, {})

    @property
    def unseen_psnr_db(self) -> float | None:
        """Mean over all subjects of the unseen sites, in dB; None where there are none."""
        return self.unseen.final.get("psnr_db")

    def to_json(self) -> Json:
        values = super().to_json()
        return values if self.unseen_by_model else {n: value for n, value in values.items() if n != "unseen_by_model"}


@dataclass(frozen=True)
class Best(JsonObject):
    """The round with the best validation PSNR: what each site reported then, and the median of that, in dB."""

    round: int
    psnr_db: float
    sites: Mapping[str, float] = field(default_factory=dict)


def over_subjects(sites: SiteScores) -> dict[str, float]:
    """Mean over all subjects of all sites of each metric that every site tells; empty without subjects."""
    total = sum(score.subjects for score in sites.values())
    names = [name for name in TEST_METRIC_NAMES if total and all(name in score.metrics for score in sites.values())]
    return {name: sum(score.metrics[name] * score.subjects for score in sites.values()) / total for name in names}
