"""The disk below the SuperLink's database is full: the run pauses and says where to look, and goes on when there is
room. The folder of runs is on another disk, so that it is the database alone that suffers."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agi_core.run.events import RunPaused
from tests.support.federation_of_processes import Federation, running
from tests.support.real_processes import until
from tests.support.small_data import write_ixi

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_below_the_database(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "scans", {"Guys": 3})
    coordinator_dir = tmp_path / "coordinator"
    with (
        disk(coordinator_dir, "48m"),
        disk(coordinator_dir / "runs", "64m"),
        running(Federation(tmp_path)) as federation,
    ):
        hospital = federation.join("hospitalA", data_dir)
        federation.until_ready()
        limits = ("federation.quorum=1", "federation.deadline_s=30", "federation.retries=1")
        run = federation.submit("full", "rounds=2", "model.prior=none", *limits)
        worker = hospital.hold(round=1)
        filler = coordinator_dir / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        os.kill(worker, signal.SIGCONT)
        until(lambda: run.state() in ("paused", "interrupted"), "the run stops")
        assert "see superlink.log, and whether the disk is full" in run.events(RunPaused)[0].reason

        filler.unlink()
        if federation.up.process.poll() is not None:  # the service would start it again
            federation.start()
        federation.resume(run)
        run.until_state("finished")
        assert run.took_part()[-2:] == [["hospitalA"], ["hospitalA"]]
