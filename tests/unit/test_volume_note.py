import json
from pathlib import Path

import numpy as np
import pytest

from agi_core.config.schema import Task
from agi_core.errors import DataError
from agi_core.inference import ErrorMap
from agi_core.known_range import KnownRange, Verdict
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.uncertainty import ErrorModel, WithError
from agi_core.volume_note import check_note, spoken, write_note

NETWORK = Network(Task(scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4))))
KNOWN = KnownRange("training", 9, {"a: b": 0.0}, {"a: b": 1.0})


def test_the_note_and_what_is_said(tmp_path: Path) -> None:
    counts = np.zeros(66, dtype=np.int64)
    counts[40] = 100
    errors = ErrorModel(np.ones(3), counts, 8, 2)
    verdict = Verdict(KNOWN, NETWORK, None, ("it is so",))
    doubted = ErrorMap(WithError(NETWORK, errors.layer), errors.interval, tmp_path / "maps" / "sd.nii")
    write_note(tmp_path / "pd.nii.gz", whose="own weights: HH", verdict=verdict, error_map=doubted, sidecar=False)
    assert json.loads((tmp_path / "pd.json").read_text()) == {
        "OutOfKnownRange": ["it is so"],
        "KnownRange": "of 9 training subjects",
        "ExpectedAbsoluteError": "sd.nii",
        "IntervalFactor": errors.factor,
        "IntervalCoverage": 0.9,
        "IntervalCoverageGuaranteed": pytest.approx(0.92 * 8 / 9),
        "CalibrationSubjects": 8,
        "CalibrationSites": 2,
        "LastLayer": "own weights: HH",
    }
    assert spoken(verdict) == ["out of what the model knows: it is so"]
    assert "(calibrate makes it)" in spoken(None)[0]


@pytest.mark.parametrize(
    ("sidecar", "there", "kept"),
    [(True, '{"Units": "arbitrary"}', {"Units": "arbitrary"}), (False, '{"IntervalFactor": 2}', {})],
)
def test_a_sidecar_is_added_to_and_an_older_note_replaced(
    tmp_path: Path, sidecar: bool, there: str, kept: dict[str, str]
) -> None:
    (tmp_path / "pd.json").write_text(there)
    write_note(tmp_path / "pd.nii.gz", whose="", verdict=Verdict(KNOWN, NETWORK, None), error_map=None, sidecar=sidecar)
    note = json.loads((tmp_path / "pd.json").read_text())
    assert note == {"OutOfKnownRange": [], "KnownRange": "of 9 training subjects", "LastLayer": "common"} | kept


def test_a_sidecar_tells_the_last_layer_also_where_nothing_is_compared(tmp_path: Path) -> None:
    write_note(tmp_path / "pd.nii.gz", whose="style of HH", verdict=None, error_map=None, sidecar=True)
    assert json.loads((tmp_path / "pd.json").read_text()) == {"LastLayer": "style of HH"}


def test_nothing_to_say(tmp_path: Path) -> None:
    write_note(tmp_path / "pd.nii", whose="", verdict=None, error_map=None, sidecar=False)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "content", ['{"Units": "arbitrary"}', '{"OutOfKnownRange": [], "Units": "arbitrary"}', "[1]", "{}", "not json"]
)
def test_a_note_of_an_older_volume_is_removed_and_another_file_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pd.json"
    write_note(tmp_path / "pd.nii.gz", whose="", verdict=Verdict(KNOWN, NETWORK, None), error_map=None, sidecar=False)
    check_note(tmp_path / "pd.nii.gz")
    write_note(tmp_path / "pd.nii.gz", whose="", verdict=None, error_map=None, sidecar=False)
    assert not path.exists()
    path.write_text(content)
    with pytest.raises(DataError, match="is no note of a synthetic volume"):
        check_note(tmp_path / "pd.nii.gz")
    write_note(tmp_path / "pd.nii.gz", whose="", verdict=None, error_map=None, sidecar=False)
    assert path.read_text() == content
