"""What the benchmark of the verdict changes, and its area under the ROC, at toy size."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest

from agi_core.data.nifti import read_volume
from agi_core.known_range import KnownRange
from benchmarks.verdict import CHANGES, auc, kinds, measured, measured_heads, rows
from tests.support.small_data import write_ixi


def test_the_area_under_the_roc() -> None:
    rng = np.random.default_rng(0)
    usual, strange = rng.integers(0, 9, 40), rng.integers(2, 12, 30)
    above, tied = (compare(strange[:, None], usual).mean() for compare in (np.greater, np.equal))
    assert auc(usual, strange) == pytest.approx(above + tied / 2)
    assert auc(usual, usual + 20) == 1


def test_measures_are_kept_and_told_apart(tmp_path: Path) -> None:
    data = write_ixi(tmp_path / "data", {"A": 6})
    first = dict(measured(data, tmp_path / "kept", changed=True))
    name, cases = next(iter(first.items()))
    assert [*cases] == ["", *CHANGES]
    path = tmp_path / "kept" / f"{name}.json"
    kept = json.loads(path.read_bytes())
    kept[""]["head: volume, litres"] = -1.0
    path.write_text(json.dumps(kept))
    again = dict(measured(data, tmp_path / "kept", changed=True))
    assert again[name][""]["head: volume, litres"] == -1  # read, not measured anew

    usual = [cases[""] for cases in first.values()]
    assert any("after alignment" in measure for measure in usual[0])
    strange = {name: [cases[name] for cases in first.values()] for name in CHANGES}
    lines = rows(KnownRange.over(usual, of="training"), usual, strange, usual_as="as in the range")
    assert "| as in the range | 6 | | 0% |" in lines
    assert "| intensities x 10 | 6 | 0.50 | 0% |" in lines


def test_a_head_is_the_same_without_its_tumour(tmp_path: Path) -> None:
    arguments = argparse.Namespace(out=tmp_path, heads="A:1", new_heads="B:1")
    heads = measured_heads(arguments, stop_s=math.inf)
    assert {name: len(its) for name, its in heads.items()} == {"known": 1, "without": 1, "with": 1}
    paths = [next((tmp_path / f"heads {name}").rglob("*-seg.nii.gz")) for name in heads]
    assert [read_volume(path, constant=True).data.any() for path in paths] == [False, False, True]
    without, with_it = (read_volume(path.with_name(path.name.replace("seg", "t2f"))).data for path in paths[1:])
    far = read_volume(paths[2]).data == 0
    assert np.median(np.abs(without - with_it)[far & (without > 0)]) < 0.02 * without.max()  # pushed a little
    tumour = ~far & (without > 0)
    assert np.median((with_it - without)[tumour]) > 0.1 * without.max()


def test_what_a_subject_is_an_example_of() -> None:
    cases = {"": {"a": 1.0}, "flipped": {"a": 2.0}}
    assert kinds("new", cases, unseen=False) == [*cases.items()]
    assert kinds("new", cases, unseen=True) == [("another anatomy", {"a": 1.0})]
    assert kinds("known", cases, unseen=False) == [("known", {"a": 1.0})]
    assert kinds("known", cases, unseen=True) == kinds("other", cases, unseen=True) == []
    assert kinds("other", cases, unseen=False) == [("another site", {"a": 1.0})]


def test_changes_change_what_they_say(tmp_path: Path) -> None:
    data = write_ixi(tmp_path / "data", {"A": 1})
    volumes = {m: read_volume(next((data / f"IXI-{m}").iterdir())) for m in ("T1", "T2")}
    t1, t2 = (volumes[m].data for m in ("T1", "T2"))
    changed = {name: change(volumes) for name, change in CHANGES.items()}
    np.testing.assert_array_equal(changed["left and right flipped"]["T1"].data, t1[::-1])
    np.testing.assert_array_equal(changed["sources swapped"]["T1"].data, t2)
    assert np.corrcoef(changed["T1 given as T2"]["T2"].data.ravel(), t1.ravel())[0, 1] > 0.99
    np.testing.assert_array_equal(changed["upper half missing"]["T2"].data[:, :, :4], t2[:, :, :4])
    assert np.ptp(changed["upper half missing"]["T2"].data[:, :, 4:]) == 0
    moved = changed["a lesion in a healthy head"]["T2"].data != t2
    assert 0 < moved.mean() < 0.1
