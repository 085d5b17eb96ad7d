"""The table of layouts, and what an entry of it is enough for. `data/test_scans.py` has the names of each layout."""

import re
from pathlib import Path
from typing import get_args

import pytest

from agi_core.data.scans import Scans, discover
from agi_core.layouts import LAYOUTS, Layout, LayoutName
from agi_core.scenario import parse_scenario


def test_every_layout_has_its_entry_and_a_scenario() -> None:
    assert set(LAYOUTS) == set(get_args(LayoutName))
    for layout in LAYOUTS.values():
        assert parse_scenario(layout.default_scenario).target


def test_a_new_layout_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = Layout(
        "P01_site-A_t1.nii",
        re.compile(r"(?P<subject>P\d+)_site-(?P<site>\w)_(?P<modality>\w+)\.nii"),
        re.compile(r"(?P<subject>P\d+)"),
        default_scenario="T1:T2",
        modalities={"t1": "T1", "t2": "T2"},
    )
    monkeypatch.setitem(LAYOUTS, "flat", flat)
    for name in ("P01_site-A_t1", "P01_site-A_t2", "P02_site-B_t1", "P02_site-B_t2", "P03_site-B_t1"):
        (tmp_path / f"{name}.nii").touch()
    found = discover(Scans(tmp_path, "flat"), ("T1", "T2"))
    assert {subject.id: subject.site for subject in found.subjects} == {"P01": "A", "P02": "B"}
    assert [skipped.reason for skipped in found.skipped] == ["no T2"]
