"""`simulations/run.py` as a user types it, on small real trees, in process."""

import csv
import hashlib
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from agi_core.__main__ import main as agi_core
from agi_core.config.load import load_config
from agi_core.evaluation import predict_session
from agi_core.network import Network
from agi_core.report.examples import read_examples
from agi_core.run import progress, run_folder
from agi_core.run.event_log import events_of
from agi_core.run.events import BaselineFinished, RoundFinished, RoundStarted
from client.site.opened import open_site
from simulations.milestones import read_milestones, shown_slice
from simulations.run import main
from tests.support.events import kinds_of
from tests.support.small_data import SMALL, write_head, write_ixi

ROOT = Path(__file__).parents[2]
ALWAYS = {"voxel_regression", "regression_pooled", "regression_per_site", "local_only"}
BASELINES = ALWAYS | {"centralised"}


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Press Ctrl-C. It interrupts as at a terminal, even where this test run is in the background of a shell, which
    starts its programs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def arguments(data_dir: Path, out_dir: Path, cache_dir: Path, *more: str) -> list[str]:
    return ["--data", str(data_dir), "--out", str(out_dir), *SMALL, f"data.cache_dir={cache_dir}", *more]


def summary_of(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def weights_hashes(run_dir: Path) -> dict[str, str]:
    return {name: its for name, its in checkpoint_hashes(run_dir).items() if name.endswith(".safetensors")}


def checkpoint_hashes(run_dir: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((run_dir / "checkpoints").iterdir())
    }


@pytest.fixture(scope="module")
def compared(ixi_dir: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two of the three hospitals, with all baselines."""
    run_dir = tmp_path_factory.mktemp("run") / "compared"
    assert main(arguments(ixi_dir, run_dir, cache_dir, "--clients", "2", "--compare")) == 0
    return run_dir


def test_run_folder_summary_and_output(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert main(arguments(ixi_dir, run_dir, cache_dir, "--clients", "3")) == 0

    expected = {"config.yaml", "environment.json", "splits.json", "events.jsonl", "summary.json", "report.html"}
    assert expected <= {path.name for path in run_dir.iterdir() if path.is_file()}
    assert set(checkpoint_hashes(run_dir)) >= {"state-00002.json", "state-00002.safetensors"}
    assert not list(run_dir.rglob(".tmp-*"))
    assert "torch" in json.loads((run_dir / "environment.json").read_text())["packages"]

    splits = json.loads((run_dir / "splits.json").read_text())
    sizes = {site: {part: len(ids) for part, ids in split.items()} for site, split in splits.items()}
    assert sizes == {
        "Guys": {"train": 3, "validation": 1, "test": 1},
        "HH": {"train": 2, "validation": 1, "test": 1},
        "IOP": {"train": 1, "validation": 1, "test": 1},
    }

    summary = summary_of(run_dir)
    assert set(summary["sites"]) == {"Guys", "HH", "IOP"}
    for row in summary["sites"].values():
        assert {"psnr_db", "ssim", "mae", "subjects"} <= set(row)
    assert summary["final"]["psnr_db"] == pytest.approx(np.mean([row["psnr_db"] for row in summary["sites"].values()]))
    assert set(summary["baselines"]) == ALWAYS
    assert set(summary["columns"]) == {"alone", "global"}
    assert summary["columns"]["global"]["final"] == summary["final"]
    facts = {name: summary[name] for name in ("unseen_sites", "rounds", "scenario", "reference", "synthetic")}
    assert facts == {
        "unseen_sites": {},
        "rounds": 2,
        "scenario": "T1,T2:PD",
        "reference": "T1",
        "synthetic": False,
    }
    assert summary["wall_s"] > 0

    out, err = capsys.readouterr()
    assert err == ""
    assert "" not in out.splitlines()  # nothing of the live line where there is no terminal
    assert max(map(len, out.partition("report:")[0].splitlines())) <= 90
    progress_lines = [line.partition(":")[0] for line in out.splitlines() if "validation" in line and " dB" in line]
    assert progress_lines == ["before training", "after round 1/2", "after round 2/2"]
    assert f"--out {run_dir} --resume --compare" in out


def test_compare_adds_the_centralised_baseline_and_the_unseen_site(compared: Path) -> None:
    summary = summary_of(compared)
    assert set(summary["sites"]) == {"Guys", "HH"}
    assert summary["unseen_sites"]["IOP"]["subjects"] == 3
    assert set(summary["baselines"]) == BASELINES
    for name, row in summary["baselines"].items():
        assert set(row["sites"]) == {"Guys", "HH"}
        assert name == "regression_per_site" or row["unseen_sites"]["IOP"]["subjects"] == 3
    assert not summary["baselines"]["regression_per_site"]["unseen_sites"]  # it has no training subject
    # at equal budget: 2 rounds of 2 steps start from the same weights, so no network is far from the others
    psnrs = [summary["baselines"][name]["final"]["psnr_db"] for name in ("local_only", "centralised")]
    assert np.ptp([*psnrs, summary["final"]["psnr_db"]]) < 2
    assert "IOP" in (compared / "report.html").read_text()


def test_the_report_follows_a_slice_of_each_site_from_round_to_round(compared: Path) -> None:
    config = run_folder.open_existing(compared)
    kept = read_milestones(compared, "HH")
    assert [*kept] == [0, 1]
    network = Network(config)  # as the run began
    test = open_site(compared / "sites" / "HH.yaml").scans(config.task).test[0]
    ((prediction, _),) = predict_session(network, test, indices=[shown_slice(test)])
    np.testing.assert_allclose(kept[0], prediction[0, 0], atol=5e-4)
    assert np.abs(kept[1] - kept[0]).max() > 0.01
    assert {"Guys", "HH"} == {example.site for example in read_examples(compared) if [*example.earlier] == [0, 1]}
    assert "From round to round" in (compared / "report.html").read_text()


def test_resume_of_a_finished_run_adds_the_baselines_without_training(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(ixi_dir, tmp_path / "run", cache_dir, "--clients", "1", "rounds=1", "--seed", "3")
    assert main(command) == 0
    before, final = weights_hashes(tmp_path / "run"), summary_of(tmp_path / "run")["final"]
    seconds = [summary_of(tmp_path / "run")["wall_s"]]
    assert main(["--resume", "--compare", "--out", str(tmp_path / "run")]) == 0
    seconds.append(summary_of(tmp_path / "run")["wall_s"])
    assert weights_hashes(tmp_path / "run") == before
    assert len(events_of(tmp_path / "run", RoundStarted)) == 1
    assert set(summary_of(tmp_path / "run")["baselines"]) == BASELINES
    assert summary_of(tmp_path / "run")["final"] == final
    capsys.readouterr()
    assert main(["--resume", "--out", str(tmp_path / "run")]) == 0
    assert set(summary_of(tmp_path / "run")["baselines"]) == BASELINES
    assert "not run" not in capsys.readouterr().out
    seconds.append(summary_of(tmp_path / "run")["wall_s"])
    assert seconds == sorted(seconds)
    assert Counter(event.name for event in events_of(tmp_path / "run", BaselineFinished)) == Counter(BASELINES)


def test_iid_partition_mixes_the_hospitals(ixi_dir: Path, cache_dir: Path, tmp_path: Path) -> None:
    command = arguments(ixi_dir, tmp_path / "run", cache_dir, "--clients", "2", "--partition", "iid", "rounds=1")
    assert main(command) == 0
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert {site: sum(map(len, split.values())) for site, split in splits.items()} == {"client-1": 6, "client-2": 6}


def write_brats(root: Path, sites: Sequence[tuple[str, int]]) -> Path:
    """Subjects of BraTS 2023 in their folders, with a label map each and the sites in a FeTS partitioning."""
    rows, number = [["Partition_ID", "Subject_ID"]], 0
    for site, count in sites:
        for _ in range(count):
            visit = f"BraTS-GLI-{number:05d}-000"
            for m, modality in enumerate(("t1n", "t1c", "t2w", "t2f", "seg")):
                write_head(root / visit / f"{visit}-{modality}.nii.gz", seed=number, contrast=1.0 + 0.4 * m)
            rows.append([site, visit])
            number += 1
    with (root / "partitioning.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def test_brats_with_a_site_map(cache_dir: Path, tmp_path: Path) -> None:
    data_dir = write_brats(tmp_path / "brats", [("1", 3), ("2", 2)])
    more = ("--layout", "brats", "--sites", str(data_dir / "partitioning.csv"), "--clients", "2", "rounds=1")
    assert main(arguments(data_dir, tmp_path / "run", cache_dir, *more)) == 0
    summary = summary_of(tmp_path / "run")
    assert summary["scenario"] == "t1n,t1c,t2w:t2f"
    assert set(summary["sites"]) == {"site1", "site2"}


def test_bids(cache_dir: Path, tmp_path: Path) -> None:
    rows = ["participant_id\tsite"]
    for number in range(4):
        for m, modality in enumerate(("T1w", "T2w", "FLAIR")):
            path = tmp_path / "bids" / f"sub-{number}" / "anat" / f"sub-{number}_{modality}.nii.gz"
            write_head(path, seed=number, contrast=1.0 + 0.4 * m)
        rows.append(f"sub-{number}\t{'north' if number < 2 else 'south'}")
    (tmp_path / "bids" / "participants.tsv").write_text("\n".join(rows))
    more = ("--layout", "bids", "--clients", "2", "rounds=1")
    assert main(arguments(tmp_path / "bids", tmp_path / "run", cache_dir, *more)) == 0
    assert set(summary_of(tmp_path / "run")["sites"]) == {"north", "south"}


def test_built_in_data_is_made_once_and_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--clients", "2", *SMALL, "rounds=1", "data.phantom_sites=Guys:2,HH:2"]
    assert main([*command, "--out", "first"]) == 0
    out = capsys.readouterr().out
    assert "making built-in synthetic data" in out
    assert "SYNTHETIC" in out
    assert summary_of(Path("first"))["synthetic"] is True
    assert main([*command, "--out", "second"]) == 0
    assert "making built-in synthetic data" not in capsys.readouterr().out
    assert (
        checkpoint_hashes(Path("first"))["state-00001.safetensors"]
        == (checkpoint_hashes(Path("second"))["state-00001.safetensors"])
    )


def test_more_sites_than_can_be_tested(cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One subject per site: all train, nobody validates or tests, and the run says so. Who took no part is tested, and
    every baseline with it."""
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 1, "HH": 1, "IOP": 1})
    assert main(arguments(data_dir, tmp_path / "run", cache_dir, "--clients", "2")) == 0
    out = capsys.readouterr().out
    assert "after round 1/2: training loss   [Guys 0." in out
    assert "no site has a test subject" in out
    assert "at sites that took no part: global" in out
    assert re.search(r"^baseline voxel regression: \d+\.\d\d dB at unseen sites$", out, re.M)
    assert summary_of(tmp_path / "run")["sites"] == {}


@pytest.mark.parametrize("weights", ["last", "best"])
def test_synthesize_for_a_subject_that_was_not_trained_on(
    compared: Path, ixi_dir: Path, tmp_path: Path, weights: str
) -> None:
    (subject,) = json.loads((compared / "splits.json").read_text())["HH"]["test"]
    paths = {modality: next((ixi_dir / f"IXI-{modality}").glob(f"{subject}-*")) for modality in ("T1", "T2", "PD")}
    out_path = tmp_path / "made" / "pd.nii.gz"
    sources = [text for modality in ("T2", "T1") for text in ("--source", f"{modality}={paths[modality]}")]
    command = ["synthesize", "--run", str(compared), *sources, "--out", str(out_path), "--weights", weights]
    assert agi_core(command) == 0
    made, real = nibabel.load(out_path), nibabel.load(paths["PD"])
    assert made.shape == real.shape
    np.testing.assert_allclose(made.affine, real.affine, atol=1e-6)
    values = made.get_fdata()
    assert 0 <= values.min() < values.max() <= 1


def test_a_site_gains_a_last_layer_of_its_own(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    own = ("model.prior=cubic", "personal=head", "--clients", "2")
    assert main(arguments(ixi_dir, run_dir, cache_dir, *own)) == 0
    summary, out = summary_of(run_dir), capsys.readouterr().out
    columns = summary["columns"]
    assert set(columns) == {"alone", "global", "personal"}
    assert columns["alone"]["sites"] == summary["baselines"]["local_only"]["sites"]
    assert set(columns["personal"]["sites"]) == {"Guys", "HH"}
    assert columns["personal"]["final"]["psnr_db"] != columns["global"]["final"]["psnr_db"]
    gains = {name: columns["personal"]["final"]["psnr_db"] - columns[name]["final"]["psnr_db"] for name in columns}
    assert f"{gains['alone']:+.2f} dB against training alone" in out
    assert "What a site gains" in (run_dir / "report.html").read_text()

    (subject,) = json.loads((run_dir / "splits.json").read_text())["HH"]["test"]
    sources = [f"--source={m}={next((ixi_dir / f'IXI-{m}').glob(f'{subject}-*'))}" for m in ("T1", "T2")]
    made = {}
    for head in ("", "Guys", "HH"):
        path = tmp_path / f"made{head}.nii"
        more = [f"--head={next((run_dir / 'sites' / head / 'heads').iterdir())}"] if head else []
        assert agi_core(["synthesize", "--run", str(run_dir), *sources, "--out", str(path), *more]) == 0
        made[head] = nibabel.load(path).get_fdata()
    assert all(np.abs(made[a] - made[b]).max() > 1e-3 for a, b in (("", "Guys"), ("", "HH"), ("Guys", "HH")))

    own_path = tmp_path / "own.safetensors"
    command = ["adapt", "--run", str(run_dir), "--data", str(ixi_dir), "--out", str(own_path)]
    assert agi_core([*command, "--cache-dir", str(cache_dir)]) == 0
    told = capsys.readouterr()
    assert "12 subjects at " in told.out
    assert "the last layer of 5 subjects is in" in told.out
    assert "left out of the other 4: " in told.out
    assert "each left out in turn gains " in told.out
    assert "used in training or validation, and so left out: " in told.err
    assert agi_core([*command, "--cache-dir", str(cache_dir)]) == 2
    assert f"{own_path} is there already; choose another --out" in capsys.readouterr().err
    head = ["--head", str(own_path)]
    assert agi_core(["synthesize", "--run", str(run_dir), *sources, "--out", str(tmp_path / "own.nii"), *head]) == 0


def test_ctrl_c_says_how_to_go_on(
    ixi_dir: Path,
    cache_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ctrl_c: Callable[[], None],
) -> None:
    command = arguments(ixi_dir, tmp_path / "run", cache_dir, "--clients", "1")

    def interrupt(news: progress.News) -> None:
        if isinstance(news, progress.Step) and news.phase == "round 2/2":
            ctrl_c()

    with progress.listening(interrupt):
        assert main(command) == 130
    message = capsys.readouterr().err
    assert f"--resume --out {tmp_path / 'run'}" in message
    assert not (tmp_path / "run" / "summary.json").exists()

    assert main([*command, "--resume"]) == 0
    assert [event.round for event in events_of(tmp_path / "run", RoundFinished)] == [1, 2]
    assert main(arguments(ixi_dir, tmp_path / "whole", cache_dir, "--clients", "1")) == 0
    broken, whole = checkpoint_hashes(tmp_path / "run"), checkpoint_hashes(tmp_path / "whole")
    assert broken["state-00002.safetensors"] == whole["state-00002.safetensors"]


def test_sigterm_says_how_to_go_on(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch system sends it at the end of a job's time."""

    def end(news: progress.News) -> None:
        if isinstance(news, progress.Step) and news.phase == "round 1/2":
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with progress.listening(end):
        assert main(arguments(ixi_dir, tmp_path / "run", cache_dir, "--clients", "1")) == 143
    assert f"--resume --out {tmp_path / 'run'}" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_was_killed_while_it_read_its_scans_goes_on(ixi_dir: Path, cache_dir: Path, tmp_path: Path) -> None:
    overrides = {"data.dir": str(ixi_dir), "data.cache_dir": str(cache_dir), "clients": 1, "rounds": 1}
    config = load_config(None, overrides=overrides, assignments=[text for text in SMALL if text != "rounds=2"])
    run_folder.create(tmp_path / "run", config)  # what is there then
    assert main(["--resume", "--out", str(tmp_path / "run")]) == 0
    stored = run_folder.open_existing(tmp_path / "run")
    assert stored.reference == "T1"
    assert stored.federation.sites == ("Guys",)
    assert summary_of(tmp_path / "run")["reference"] == "T1"


def test_a_run_of_relative_paths_goes_on_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ixi(tmp_path / "ixi", {"Guys": 3})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    command = ["--data", "ixi", "data.cache_dir=cache", "--clients", "1", *SMALL, "rounds=1"]
    assert main([*command, "--out", "run"]) == 0
    assert main([*command, "--out", "run", "--resume"]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["--resume", "--compare", "--out", "../run"]) == 0
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_run_that_fails_as_it_begins_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--data", "nowhere"]) == 2
    assert main(["device=tpu"]) == 2
    assert not list((tmp_path / "runs").iterdir())
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    assert main(["device=tpu", "--out", "mine"]) == 2
    assert (tmp_path / "mine").is_dir()


def test_an_interrupted_baseline_is_trained_anew(
    compared: Path, ixi_dir: Path, cache_dir: Path, tmp_path: Path, ctrl_c: Callable[[], None]
) -> None:
    run_dir = tmp_path / "run"
    command = arguments(ixi_dir, run_dir, cache_dir, "--clients", "2", "--compare")

    def interrupt(news: progress.News) -> None:
        if isinstance(news, progress.Step) and news.phase == "centralised":
            ctrl_c()

    with progress.listening(interrupt):
        assert main(command) == 130
    assert {path.stem for path in (run_dir / "baselines").iterdir()} == ALWAYS
    assert main([*command, "--resume"]) == 0
    assert summary_of(run_dir)["baselines"] == summary_of(compared)["baselines"]
    assert kinds_of(run_dir) == kinds_of(compared)


def test_settings_may_stand_between_flags(
    ixi_dir: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rounds=1", *arguments(ixi_dir, tmp_path / "run", cache_dir), "--clients", "13", "threads=1"]
    assert main(command) == 2
    assert "13 clients" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[str(ROOT / "simulations" / "run.py")], ["-m", "agi_core"]])
def test_help_from_any_folder(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: python ")
    assert done.stderr == ""
