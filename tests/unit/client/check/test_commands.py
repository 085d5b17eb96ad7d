"""What `--dry-run` tries."""

from dataclasses import replace
from pathlib import Path

import pytest

from agi_core.cells import parse_vocabulary
from agi_core.config.load import load_config
from agi_core.errors import ConfigError
from client.check.commands import cell_to_try, task_to_try
from client.site.file import read_deployed_site
from tests.support.requests_by_hand import deployed_site
from tests.support.small_data import write_ixi


@pytest.mark.parametrize(
    ("layout", "scenario", "asked"),
    [("brats", None, "t1n,t1c,t2w:t2f"), ("bids", None, "T1w,T2w:FLAIR"), ("brats", "t1n:t2f", "t1n:t2f")],
)
def test_a_dry_run_tries_what_a_coordinator_would_submit(layout: str, scenario: str | None, asked: str) -> None:
    """Who submits a run names no layout, so a preset for one does not hold."""
    submitted = load_config(None, overrides={"scenario": asked}, assignments=["rounds=2"])
    assert task_to_try(layout, scenario=scenario, settings=["rounds=2"]) == submitted.task


def test_of_a_vocabulary_a_cell_is_tried_that_the_site_offers_and_a_session_holds(tmp_path: Path) -> None:
    data_dir, vocabulary = write_ixi(tmp_path / "ixi", {"Guys": 2}), parse_vocabulary("T1,T2,PD:any")
    site = read_deployed_site(deployed_site(tmp_path, data_dir))
    assert str(cell_to_try(site, vocabulary)) == "T2,PD:T1"
    offers = replace(site, data=replace(site.data, modalities=("T1", "PD")))
    assert str(cell_to_try(offers, vocabulary)) == "PD:T1"
    for scan in sorted((data_dir / "IXI-T1").iterdir()):
        scan.unlink()
    assert str(cell_to_try(site, vocabulary)) == "PD:T2"
    with pytest.raises(ConfigError, match=r"no session here holds two modalities of T1,T2,PD:any that the site offers"):
        cell_to_try(offers, vocabulary)
