"""Evaluation at the coordinator: putting the sites' figures together. It reads replies, never scans."""

from collections.abc import Collection, Mapping

from agi_core.protocol import Reply
from agi_core.run.scores import TEST_METRIC_NAMES, Best, SiteScore, SiteScores
from server.aggregation import SiteUpdate

Answered = Mapping[str, Reply | SiteUpdate]
WORSE_DB = 3.0
"""How far a site's validation PSNR falls below its figure of the best model before the new one counts as worse."""


def site_scores(replies: Mapping[str, Reply]) -> dict[str, SiteScore]:
    """The score of each site that reports a PSNR. A site without subjects reports none, and neither does a site whose
    policy suppresses it. Other metrics may be missing."""
    return _told({site: _score(reply.metrics, reply.num_examples) for site, reply in replies.items()})


def personal_scores(replies: Mapping[str, Reply]) -> dict[str, SiteScore]:
    """The same of each site's own last layer."""
    own = {site: _score(reply.metrics, reply.num_examples, prefix="personal_") for site, reply in replies.items()}
    return _told(own)


def validation_scores(answers: Answered) -> dict[str, SiteScore]:
    """The same of the validation figures, which travel among the metrics of an answer."""
    told = {site: answer.metrics for site, answer in answers.items()}
    subjects = {site: int(metrics.get("validation_subjects", 0)) for site, metrics in told.items()}
    return _told({site: _score(metrics, subjects[site], prefix="validation_") for site, metrics in told.items()})


def _score(metrics: Mapping[str, float], subjects: int, *, prefix: str = "") -> SiteScore:
    return SiteScore({name: metrics[prefix + name] for name in TEST_METRIC_NAMES if prefix + name in metrics}, subjects)


def _told(scores: SiteScores) -> dict[str, SiteScore]:
    return {site: its for site, its in sorted(scores.items()) if its.subjects > 0 and "psnr_db" in its.metrics}


def suppressed_sites(answers: Answered, names: Collection[str]) -> list[str]:
    """The sites whose policy suppresses any of these metrics."""
    return sorted(site for site, answer in answers.items() if {*answer.suppressed.split(",")} & {*names})


def worse_at(scores: SiteScores, best: Best, *, of: int) -> list[str]:
    """The sites at which this model's validation PSNR lies more than WORSE_DB below what the same site reported for the
    best model, if they are a majority of all `of` training sites; else none."""
    both = [site for site in scores if site in best.sites]
    worse = [site for site in both if scores[site].psnr_db < best.sites[site] - WORSE_DB]
    return worse if len(worse) > of / 2 else []
