"""Evaluation at the coordinator: putting the sites' figures together. It reads replies, never scans."""

from collections.abc import Mapping
from typing import Any

from agi_core.metric_names import METRICS
from agi_core.protocol import Reply


def site_rows(replies: Mapping[str, Reply]) -> dict[str, dict[str, Any]]:
    """{site: {metric: mean over its subjects, ..., "subjects": n}}; sites without subjects are left out."""
    return {
        site: {
            **{name: reply.metrics[name] for name in METRICS if name in reply.metrics},
            "subjects": reply.num_examples,
        }
        for site, reply in sorted(replies.items())
        if reply.num_examples > 0
    }


def validation_row(metrics: Mapping[str, float]) -> dict[str, Any] | None:
    """The validation figures that travelled in a reply's metrics; None where the site has no validation subject."""
    if not metrics.get("validation_subjects"):
        return None
    row: dict[str, Any] = {name: metrics[f"validation_{name}"] for name in METRICS if f"validation_{name}" in metrics}
    return {**row, "subjects": int(metrics["validation_subjects"])}


def over_subjects(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Each metric's mean over all subjects of all sites; empty without subjects."""
    total = sum(row["subjects"] for row in rows.values())
    names = [name for name in METRICS if total and all(name in row for row in rows.values())]
    return {name: sum(row[name] * row["subjects"] for row in rows.values()) / total for name in names}
