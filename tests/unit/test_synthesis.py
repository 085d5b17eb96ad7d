"""What goes on around a prediction; `test_inference` has the same with a network."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agi_core.data.nifti import FloatArray
from agi_core.errors import DataError, RunError
from agi_core.scenario import Scenario
from agi_core.synthesis import ERROR_VALUES, Second, made_here, synthesize_files
from tests.support.small_data import write_head


def test_it_needs_no_torch() -> None:
    """An exported graph is used where torch is not installed."""
    code = "import sys, agi_core.synthesis, agi_core.data.slabs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_prediction_that_is_not_finite_writes_nothing(tmp_path: Path) -> None:
    write_head(tmp_path / "t1.nii", seed=1, contrast=1)
    with pytest.raises(RunError, match="not finite"):
        synthesize_files(
            lambda volumes: volumes[:, 0] * np.float32(np.nan),
            scenario=Scenario(("T1",), "PD"),
            grid="T1",
            source_paths={"T1": tmp_path / "t1.nii"},
            out_path=tmp_path / "pd.nii",
            spacing_mm=None,
        )
    assert not (tmp_path / "pd.nii").exists()


def test_a_map_that_cannot_be_written_leaves_no_volume(tmp_path: Path) -> None:
    write_head(tmp_path / "t1.nii", seed=1, contrast=1)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match=r"file/e\.nii could not be written"):
        synthesize_files(
            lambda volumes: np.stack([volumes[:, 0], 0.1 * volumes[:, 0]]),
            scenario=Scenario(("T1",), "PD"),
            grid="T1",
            source_paths={"T1": tmp_path / "t1.nii"},
            out_path=tmp_path / "pd.nii",
            spacing_mm=None,
            second=Second(tmp_path / "file" / "e.nii", "expected error"),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "t1.nii"]


def test_a_volume_of_a_long_modality_is_known_as_made_here(tmp_path: Path) -> None:
    """A header has room for 79 letters."""
    write_head(tmp_path / "t1.nii", seed=1, contrast=1)
    synthesize_files(
        lambda volumes: volumes[:, 0],
        scenario=Scenario(("T1w",), "FLAIR[desc-preproc_space-MNI152NLin2009cAsym]"),
        grid="T1w",
        source_paths={"T1w": tmp_path / "t1.nii"},
        out_path=tmp_path / "flair.nii",
        spacing_mm=None,
        judge=lambda volumes, prepared: ["it is another scanner"],
    )
    assert made_here(tmp_path / "flair.nii")


@pytest.mark.parametrize("taken", ["pd.nii", "e.nii"])
def test_only_what_was_made_here_is_replaced(tmp_path: Path, taken: str) -> None:
    write_head(tmp_path / "t1.nii", seed=1, contrast=1)
    predicted: list[int] = []

    def make() -> None:
        def predict(volumes: FloatArray) -> FloatArray:
            predicted.append(1)
            return np.stack([volumes[:, 0], 0.1 * volumes[:, 0]])

        synthesize_files(
            predict,
            scenario=Scenario(("T1",), "PD"),
            grid="T1",
            source_paths={"T1": tmp_path / "t1.nii"},
            out_path=tmp_path / "pd.nii",
            spacing_mm=None,
            judge=lambda volumes, prepared: ["it is another scanner"],
            second=Second(tmp_path / "e.nii", f"{ERROR_VALUES}; 90% interval: +- 2.00 e"),
        )

    make()
    made = (tmp_path / taken).read_bytes()
    make()
    assert (tmp_path / taken).read_bytes() == made
    for other in (b"no scan", (tmp_path / "t1.nii").read_bytes()):
        (tmp_path / taken).write_bytes(other)
        with pytest.raises(DataError, match=rf"{taken} is there already, and is no synthetic volume"):
            make()
        assert (tmp_path / taken).read_bytes() == other
    assert len(predicted) == 2
