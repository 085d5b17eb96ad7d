"""Evaluation at the coordinator: putting the sites' figures together. It reads replies, never scans."""

from collections.abc import Collection, Mapping
from typing import Any

from agi_core.metric_names import METRIC_NAMES
from agi_core.protocol import Reply
from server.aggregation import SiteUpdate

PSNR = METRIC_NAMES[0]

Answered = Mapping[str, Reply | SiteUpdate]
Rows = dict[str, dict[str, Any]]
WORSE_DB = 3.0
"""Validation PSNR fell by at most 0.8 dB (median over sites) below the best so far in 15 recorded honest runs."""


def site_rows(replies: Mapping[str, Reply]) -> Rows:
    """{site: {metric: mean over its subjects, ..., "subjects": n}} of the sites that report a PSNR. A site
    without subjects reports none, and neither does a site whose policy suppresses it. Other metrics may be missing."""
    return {
        site: {
            **{name: reply.metrics[name] for name in METRIC_NAMES if name in reply.metrics},
            "subjects": reply.num_examples,
        }
        for site, reply in sorted(replies.items())
        if reply.num_examples > 0 and PSNR in reply.metrics
    }


def validation_rows(answers: Answered) -> Rows:
    """The validation figures that travelled in the metrics; rows as in `site_rows`."""
    rows: Rows = {}
    for site, answer in sorted(answers.items()):
        subjects = int(answer.metrics.get("validation_subjects", 0))
        row = {
            name: answer.metrics[f"validation_{name}"]
            for name in METRIC_NAMES
            if f"validation_{name}" in answer.metrics
        }
        if subjects and PSNR in row:
            rows[site] = {**row, "subjects": subjects}
    return rows


def suppressed_sites(answers: Answered, names: Collection[str]) -> list[str]:
    """The sites whose policy suppresses any of these metrics."""
    return sorted(site for site, answer in answers.items() if {*answer.suppressed.split(",")} & {*names})


def over_subjects(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Each metric's mean over all subjects of all sites; empty without subjects."""
    total = sum(row["subjects"] for row in rows.values())
    names = [name for name in METRIC_NAMES if total and all(name in row for row in rows.values())]
    return {name: sum(row[name] * row["subjects"] for row in rows.values()) / total for name in names}


def worse_at(rows: Mapping[str, Mapping[str, Any]], best_psnr_db: Mapping[str, float]) -> list[str]:
    """The sites at which this model's validation PSNR lies more than WORSE_DB below what the same site reported for the
    best model, if they are a majority of the sites that reported both; else none."""
    both = [site for site in rows if site in best_psnr_db]
    worse = [site for site in both if rows[site][PSNR] < best_psnr_db[site] - WORSE_DB]
    return worse if len(worse) > len(both) / 2 else []
