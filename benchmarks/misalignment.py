"""The misalignment benchmark: what a moved source costs each model, against what registration and alignment recover.

    python -m benchmarks.misalignment --data DIR/ixi_like --registered DIR/ixi_like_registered --jobs 2
    python -m benchmarks.misalignment --data DIR/ixi_like --scenario T2,PD:T1 --moved PD --register-target
    python -m benchmarks.misalignment --data GENERATED --tested DIR/brats_like --layout brats \\
        --scenario t1n,t1c,t2w:t2f --reference t2w --moved t1n -- grid.spacing_mm=[1.5,1.75,5]

One source is moved; target and reference stay. Every (variant, seed) is trained by the product's own loop in one round,
with the same steps, crops and initial weights, and scored on whole volumes of the same unseen subjects (the stable
split's) under the same recorded moves (OUT/moves.json). Resumable: each is a file that is kept while its settings are
the same.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch

from agi_core.config.load import task_hash, task_json
from agi_core.data.datasets import TrainingSlices
from agi_core.host import atomic
from agi_core.layouts import LayoutName
from agi_core.network import Network
from agi_core.training import train_round
from benchmarks.commit import commit
from benchmarks.misalignment_data import open_sessions, prepare_tests
from benchmarks.misalignment_report import Results, draw_figure, tables
from benchmarks.misalignment_score import score
from benchmarks.misalignment_setup import MAIN, OTHERS, TESTS, TRANSLATIONS, Setup, configuration
from benchmarks.misalignment_variants import SETS, VARIANTS


def main() -> int:
    setup, names, seeds, jobs = parse_args()
    cases = [(name, seed) for seed in seeds for name in names]
    for data in sorted({VARIANTS[name].data for name in names}):
        prepare_tests(setup, data)
    todo = [case for case in cases if read_result(setup, *case) is None]
    print(f"{len(cases) - len(todo)} of {len(cases)} results are there; training the others")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        for done, line in enumerate(pool.map(partial(run, setup), *zip(*todo, strict=True)) if todo else (), start=1):
            print(f"[{done}/{len(todo)}] {line}", flush=True)
    results = {case: result for case in cases if (result := read_result(setup, *case)) is not None}
    main_tests = {name: str(TRANSLATIONS[0] if VARIANTS[name].data == "twin" else MAIN) for name in names}
    text = heading(setup, seeds, results) + tables(results, names, seeds, main=main_tests, tests=list(map(str, TESTS)))
    atomic.write_text(setup.out_dir / "misalignment.md", text)
    draw_figure(
        setup.out_dir / "misalignment.png",
        results,
        names,
        seeds,
        curve={test.size: str(test) for test in TRANSLATIONS},
        bars=list(map(str, OTHERS)),
    )
    print(text)
    return 0


def run(setup: Setup, name: str, seed: int) -> str:
    """Train and test one variant with one seed, and write its file."""
    torch.set_num_threads(1)
    config = configuration(setup, name, seed)
    task, data = config.task, VARIANTS[name].data
    network = Network(task)
    slices = TrainingSlices.of(task, open_sessions(setup, data, part="train"))
    ends = [time.process_time()]
    loss = train_round(
        network.module,
        slices.draw,
        task=task,
        site="benchmark",
        round=1,
        on_step=lambda *_: ends.append(time.process_time()),
    )
    scores = score(setup, network, data=data)
    result = {
        "variant": name,
        "seed": seed,
        "config": fingerprint(setup, name, seed),
        "commit": commit(),
        "train_loss": loss,
        "step_cpu_s": median(b - a for a, b in pairwise(ends)),
        "scores": scores,
    }
    atomic.write_json(result_path(setup, name, seed), result)
    psnr_db = np.mean([row["psnr_db"] for row in scores[str(MAIN)].values()])
    return f"{name}, seed {seed}: {psnr_db:.2f} dB"


def fingerprint(setup: Setup, name: str, seed: int) -> str:
    """Names everything that a result depends on but code and scans."""
    tests = ", ".join(map(str, TESTS)) + (", target registered" if setup.register_target else "")
    return task_hash(f"{task_json(configuration(setup, name, seed).task)}|{VARIANTS[name].data}|{tests}")


def result_path(setup: Setup, name: str, seed: int) -> Path:
    slug = "".join(c if c.isalnum() else "-" for c in name.lower())
    return setup.out_dir / "results" / f"{slug}-{seed}.json"


def read_result(setup: Setup, name: str, seed: int) -> dict[str, Any] | None:
    """The result if it is there and was made with these settings."""
    path = result_path(setup, name, seed)
    result: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return result if result and result["config"] == fingerprint(setup, name, seed) else None


def heading(setup: Setup, seeds: Sequence[int], results: Results) -> str:
    commits = ", ".join(sorted({result["commit"] for result in results.values()}))
    tested = f" (tested on {setup.tested_dir.name})" if setup.tested_dir else ""
    return (
        f"{setup.data_dir.name}{tested}, {setup.scenario}, {setup.moved} moved, seeds {', '.join(map(str, seeds))},"
        f" {setup.steps} steps of 8 whole slices, one thread, commit {commits}.\n\n"
    )


def parse_args() -> tuple[Setup, list[str], list[int], int]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of scans whose sources lie as acquired")
    parser.add_argument("--tested", type=Path, help="folder to test on, whole, instead of unseen subjects of --data")
    parser.add_argument("--registered", type=Path, help="the modalities of --data acquired in one pose: the bound")
    parser.add_argument("--layout", choices=get_args(LayoutName), default="ixi", help="of --data (%(default)s)")
    parser.add_argument("--scenario", default="T1,T2:PD", help="(%(default)s)")
    parser.add_argument("--reference", default="T2", help="source in the target's pose (%(default)s)")
    parser.add_argument("--moved", default="T1", help="source that is moved (%(default)s)")
    parser.add_argument(
        "--register-target",
        action="store_true",
        help="score also against the target registered to the prediction, for targets in a pose of their own",
    )
    parser.add_argument(
        "--variants", default="main", help=f"{', '.join(SETS)} (%(default)s), or of these: {'; '.join(VARIANTS)}"
    )
    parser.add_argument("--seeds", default="0,1,2,3,4", help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of training (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/misalignment"), help="(%(default)s)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of every variant")
    a = parser.parse_args()
    names = SETS.get(a.variants) or [name.strip() for name in a.variants.split(";")]
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"no variant is called {', '.join(unknown)}")
    for folder in (a.data, a.tested, a.registered):
        if folder is not None and not folder.is_dir():
            parser.error(f"there is no folder {folder}")
    if a.registered is None:
        names = [name for name in names if VARIANTS[name].data != "twin"]
    setup = Setup(
        data_dir=a.data,
        tested_dir=a.tested,
        registered_dir=a.registered,
        layout=a.layout,
        scenario=a.scenario,
        reference=a.reference,
        moved=a.moved,
        register_target=a.register_target,
        steps=a.steps,
        out_dir=a.out.absolute(),
        settings=tuple(a.settings),
    )
    return setup, names, [int(seed) for seed in a.seeds.split(",")], a.jobs


if __name__ == "__main__":
    sys.exit(main())
