"""What `--dry-run` tries."""

import pytest

from agi_core.config.load import load_config
from client.check.commands import task_to_try


@pytest.mark.parametrize(
    ("layout", "scenario", "asked"),
    [("brats", None, "t1n,t1c,t2w:t2f"), ("bids", None, "T1w,T2w:FLAIR"), ("brats", "t1n:t2f", "t1n:t2f")],
)
def test_a_dry_run_tries_what_a_coordinator_would_submit(layout: str, scenario: str | None, asked: str) -> None:
    """Who submits a run names no layout, so a preset for one does not hold."""
    submitted = load_config(None, overrides={"scenario": asked}, assignments=["rounds=2"])
    assert task_to_try(layout, scenario=scenario, settings=["rounds=2"]) == submitted.task
