"""What it costs to prepare scans for the first time, alone and in threads.

    python -m benchmarks.cache_build [--threads 2] [--turns 3]

Four subjects with 3 scans of 256x256x150 each. One thread and several take turns, each in an empty cache, and a ratio
is the median over the turns of (threads / alone) in wall time. The entries are compared: they are equal, bit for bit.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from agi_core.data.cached_session import CachedSession
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, discover
from agi_core.host.allocator import keep_freed_memory
from agi_core.scenario import parse_scenario
from benchmarks.check_bytes import scans

SUBJECTS, SHAPE = 4, (256, 256, 150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    keep_freed_memory()  # as in the programs
    scenario = parse_scenario("T1,T2:PD")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "ixi").mkdir()
        list(scans(root / "ixi", SUBJECTS, SHAPE))
        subjects = discover(Scans(dir=root / "ixi", layout="ixi"), scenario.modalities).subjects

        def build(name: str, threads: int) -> tuple[float, float, list[CachedSession]]:
            preparation = Preparation(
                scenario=scenario,
                spacing_mm=None,
                register_to=None,
                whole=False,
                cache_dir=root / name,
                threads=threads,
            )
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            entries = preparation.open(subjects)
            return time.perf_counter() - wall_s, time.process_time() - cpu_s, entries

        build("warm", 1)
        ratios = []
        for turn in range(asked.turns):
            (alone_s, alone_cpu_s, alone), (wall_s, cpu_s, together) = (
                build(f"{turn}-{threads}", threads) for threads in (1, asked.threads)
            )
            assert [a.path.read_bytes() for a in alone] == [b.path.read_bytes() for b in together]
            ratios.append(wall_s / alone_s)
            print(
                f"s per subject: alone {alone_s / SUBJECTS:.2f} ({alone_cpu_s / SUBJECTS:.2f} of CPU), {asked.threads}"
                f" threads {wall_s / SUBJECTS:.2f} ({cpu_s / SUBJECTS:.2f} of CPU); load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    print(f"ratio {median(ratios):.2f}")


if __name__ == "__main__":
    main()
