"""The measurement of ways to make a model one's own, on a tiny run."""

from pathlib import Path

import pytest

from benchmarks import personal
from simulations.run import main
from tests.support.small_data import SMALL


@pytest.mark.slow  # a whole run, then three ways to fine-tune it
def test_every_way_and_the_curve_of_an_unseen_site_are_measured(
    ixi_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = tmp_path / "run", ["--data", str(ixi_dir), "--layout", "ixi"]
    settings = [*SMALL, "model.prior=cubic", "personal=head", f"data.cache_dir={tmp_path / 'cache'}"]
    assert main([*data, "--clients", "2", "--out", str(run), *settings]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["personal", str(run)])
    personal.main()
    said = capsys.readouterr().out
    for way in ("global", "head", "norms", "finetune"):
        assert f"\n| {way} | " in said
    assert "\n| head | " in said
    assert "| 0.00 | +0.00 |" in said
    assert "\n| 1 | " in said
    assert "\n| 5 | " not in said
