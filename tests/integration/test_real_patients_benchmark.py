"""The measurement on a few real patients, on tiny ones."""

from pathlib import Path

import pytest

from benchmarks import real_patients
from tests.support.small_data import SMALL, write_head


@pytest.mark.slow  # three whole runs
def test_each_patient_is_left_out_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        name = f"BraTS-GLI-0000{number}-000"
        for m, modality in enumerate(("t1n", "t1c", "t2w", "t2f")):
            path = tmp_path / "brats" / name / f"{name}-{modality}.nii.gz"
            write_head(path, seed=number, contrast=1 + 0.4 * m)
    settings = [*SMALL, f"data.cache_dir={tmp_path / 'cache'}", "rounds=1"]
    where = ["--data", str(tmp_path / "brats"), "--layout", "brats", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", ["real_patients", *where, *settings])
    real_patients.main()
    assert len([*(tmp_path / "runs").glob("*/report.html")]) == 3
    capsys.readouterr()
    real_patients.main()
    again = capsys.readouterr().out
    for column in ("the network", "alone", "regression, aligned", "regression, as they are"):
        rows = [line for line in again.splitlines() if line.startswith(f"| 0 | {column} |")]
        assert len(rows) == 3  # PSNR, SSIM, MAE
        for row in rows:
            *patients, mean = map(float, row.strip("|").split("|")[3:])
            assert mean == pytest.approx(sum(patients) / 3, abs=0.01)
    assert "round 1/1" not in again  # nothing is trained twice
