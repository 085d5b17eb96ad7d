import json
from pathlib import Path

import numpy as np
import pytest

from agi_core.config.schema import Task
from agi_core.errors import ConfigError
from agi_core.known_range import KnownRange, Verdict
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network
from agi_core.uncertainty import ErrorModel
from agi_core.volume_note import spoken, verdict_by, write_note

NETWORK = Network(Task(scenario="T1,T2:PD", model=ModelConfig(widths=(4, 4))))
KNOWN = KnownRange("training", 9, {"a: b": 0.0}, {"a: b": 1.0})


def test_a_verdict_that_is_wanted_needs_a_range() -> None:
    assert verdict_by(None, NETWORK, strict=False) is None
    with pytest.raises(ConfigError, match=r"--strict needs the known range .* agi_core calibrate --run"):
        verdict_by(None, NETWORK, strict=True)
    verdict = verdict_by(KNOWN, NETWORK, strict=True)
    assert verdict is not None
    assert (verdict.known, verdict.network) == (KNOWN, NETWORK)


def test_the_note_and_what_is_said(tmp_path: Path) -> None:
    counts = np.zeros(66, dtype=np.int64)
    counts[40] = 100
    errors = ErrorModel(np.ones(3), counts, 8, 2)
    verdict = Verdict(KNOWN, NETWORK, ("it is so",))
    write_note(tmp_path / "pd.nii.gz", verdict=verdict, error_map=(errors, tmp_path / "maps" / "sd.nii"), sidecar=False)
    assert json.loads((tmp_path / "pd.json").read_text()) == {
        "OutOfKnownRange": ["it is so"],
        "KnownRange": "of 9 training subjects",
        "ExpectedAbsoluteError": "sd.nii",
        "IntervalFactor": errors.factor,
        "IntervalCoverage": 0.9,
        "IntervalCoverageGuaranteed": pytest.approx(0.92 * 8 / 9),
        "CalibrationSubjects": 8,
        "CalibrationSites": 2,
    }
    assert spoken(verdict) == ["out of what the model knows: it is so"]
    assert "not compared" in spoken(None)[0]


@pytest.mark.parametrize(("sidecar", "kept"), [(True, {"Units": "arbitrary"}), (False, {})])
def test_a_sidecar_is_added_to_and_another_file_replaced(tmp_path: Path, sidecar: bool, kept: dict[str, str]) -> None:
    (tmp_path / "pd.json").write_text('{"Units": "arbitrary"}')
    write_note(tmp_path / "pd.nii.gz", verdict=Verdict(KNOWN), error_map=None, sidecar=sidecar)
    note = json.loads((tmp_path / "pd.json").read_text())
    assert note == {"OutOfKnownRange": [], "KnownRange": "of 9 training subjects"} | kept


def test_nothing_to_say(tmp_path: Path) -> None:
    write_note(tmp_path / "pd.nii", verdict=None, error_map=None, sidecar=False)
    assert not [*tmp_path.iterdir()]
