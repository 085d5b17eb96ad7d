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
import dataclasses
import hashlib
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agi_core.config.load import load_config, task_hash, task_json
from agi_core.config.schema import MisalignKind, RunConfig
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import TrainingSlices
from agi_core.data.misalignment import Move, apply, draw
from agi_core.data.nifti import Volume
from agi_core.data.partition import split_subjects
from agi_core.data.preparation import Preparation
from agi_core.data.preprocess import resample
from agi_core.data.registration import register
from agi_core.data.scans import Scans, discover
from agi_core.data.slabs import slabs
from agi_core.host import atomic
from agi_core.layouts import LayoutName
from agi_core.metrics import SubjectScore
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.network import Network
from agi_core.prediction import predict_whole
from agi_core.scenario import parse_scenario
from agi_core.training import train_round
from benchmarks.misalignment_report import Results, draw_figure, tables
from benchmarks.misalignment_truth import offset_errors, read_poses, true_offsets
from benchmarks.misalignment_variants import SETS, VARIANTS

FloatArray = npt.NDArray[np.float64]
SETTINGS = ["rounds=1", "training.batch_size=8", "grid.crop=[128,128]"]
MOVED_IN_TRAINING = ["training.misalign.kind=translation", "training.misalign.size=6"]


@dataclass(frozen=True)
class Test:
    """How the source is moved in testing; see `agi_core.data.misalignment.draw`."""

    kind: MisalignKind
    size: float
    up_to: bool = False

    def __str__(self) -> str:
        unit = {"translation": "px", "rotation": "deg", "scale": "", "elastic": "mm", "rigid": "mm/deg"}[self.kind]
        return f"{self.kind}{' up to' if self.up_to else ''} {self.size:g} {unit}".strip()


MAIN = Test("translation", 6, up_to=True)
TRANSLATIONS = [Test("translation", pixels) for pixels in (0, 1, 2, 4, 8, 16)]
OTHERS = [Test("rotation", 5), Test("scale", 0.05), Test("scale", 0.1), Test("elastic", 3), Test("rigid", 3)]
TESTS = [MAIN, *TRANSLATIONS, *OTHERS]


@dataclass(frozen=True)
class Setup:
    """What all variants share; `moved` and `reference` are sources."""

    data_dir: Path
    tested_dir: Path | None
    registered_dir: Path | None
    layout: LayoutName
    scenario: str
    reference: str
    moved: str
    register_target: bool
    steps: int
    out_dir: Path
    settings: tuple[str, ...]


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


def score(setup: Setup, network: Network, *, data: str) -> dict[str, dict[str, dict[str, float]]]:
    """{test: {subject: metrics of the whole volume}}, with errors of the recovered offsets where the true ones are
    known, and `psnr_registered_db` against a target registered to the prediction with `register_target`."""
    moved = parse_scenario(setup.scenario).sources.index(setup.moved)
    scores: dict[str, dict[str, dict[str, float]]] = {}
    alignment = network.module.alignment
    poses = read_poses(setup.data_dir / "truth.csv") if data == "native" and setup.moved == "T1" else {}
    for session, test, volumes, target, foreground in test_inputs(setup, data):
        sources = slabs(volumes, neighbours=network.neighbours)
        parts = torch.split(torch.arange(len(sources)), 8)
        prediction = torch.cat([predict_whole(network, sources[part], box=session.source_box) for part in parts])
        row = scored(prediction, target, foreground)
        if setup.register_target:
            laid = registered(target[:, 0].numpy(), onto=prediction[:, 0].numpy(), session=session)
            row["psnr_registered_db"] = scored(prediction, torch.from_numpy(laid)[:, None], foreground)["psnr_db"]
        if isinstance(alignment, GroupAlignment) and session.subject_id in poses and test.kind != "elastic":
            true = true_offsets(move_of(test, session), poses[session.subject_id], session.grid)
            found = torch.cat([alignment.offsets(sources[part])[:, moved, -2:] for part in parts])
            row |= offset_errors(found.numpy(), true, head=foreground[:, 0].numpy(), spacing_mm=session.spacing_mm)
        scores.setdefault(str(test), {})[session.subject_id] = row
    return scores


def scored(prediction: Tensor, target: Tensor, foreground: Tensor) -> dict[str, float]:
    """Metrics of one volume, slices first."""
    subject_score = SubjectScore()
    subject_score.add(prediction, target, foreground)
    return subject_score.result()


def configuration(setup: Setup, name: str, seed: int) -> RunConfig:
    variant = VARIANTS[name]
    moved = [f"training.misalign.source={setup.moved}", *MOVED_IN_TRAINING] if variant.moved else []
    shared = [f"scenario='{setup.scenario}'", f"reference={setup.reference}", f"training.local_steps={setup.steps}"]
    return load_config(
        None,
        overrides={"seed": seed, "data.layout": setup.layout},
        assignments=[*SETTINGS, *shared, *moved, *variant.settings, *setup.settings],
    )


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


# DATA


def open_sessions(setup: Setup, data: str, *, part: str) -> list[CachedSession]:
    """Cached sessions of the stable split's `train` or `test` subjects. Whole slices in both, so that training sees
    as much air around the head as testing, and a moved head does not leave the picture. Another folder of scans to
    test on is used whole."""
    elsewhere = setup.tested_dir if part == "test" else None
    root = elsewhere or (twin(setup) if data == "twin" else setup.data_dir)
    scans = Scans(root, setup.layout, register="rigid" if data == "rigid" and part == "train" else "none")
    found = discover(scans, parse_scenario(setup.scenario).modalities)
    chosen = None if elsewhere else getattr(split_subjects([subject.id for subject in found.subjects]), part)
    task = configuration(setup, "plain", 0).task
    preparation = Preparation.of(task, scans, cache_dir=setup.out_dir / "cache", whole=True)
    return preparation.open(subject for subject in found.subjects if chosen is None or subject.id in chosen)


def twin(setup: Setup) -> Path:
    """The folder of the perfectly registered data: its own modalities, the others from the native data."""
    assert setup.registered_dir is not None
    root = setup.out_dir / "twin"
    root.mkdir(parents=True, exist_ok=True)
    for folder in (path for path in setup.data_dir.iterdir() if path.is_dir()):
        own, link = setup.registered_dir / folder.name, root / folder.name
        if not link.exists():
            link.symlink_to((own if own.is_dir() else folder).resolve(), target_is_directory=True)
    return root


def move_of(test: Test, session: CachedSession) -> Move:
    """The same for every variant and seed."""
    digest = hashlib.sha256(f"{test}|{session.subject_id}|{session.session}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8]))
    return draw(rng, test.kind, test.size, spacing_mm=session.spacing_mm, up_to=test.up_to)


def read_whole(session: CachedSession) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Volumes (D, M, H, W) and head (D, H, W) of a session."""
    volumes, heads = zip(*map(session.read_slice, range(session.shape[0])), strict=True)
    return np.stack(volumes).astype(np.float32), np.stack(heads)


def prepare_tests(setup: Setup, data: str) -> None:
    """Write the moved source of every test subject and test, with `rigid` registered after it was moved, and the
    caches; nothing is done twice."""
    scenario = parse_scenario(setup.scenario)
    moved, reference = scenario.sources.index(setup.moved), scenario.sources.index(setup.reference)
    open_sessions(setup, data, part="train")
    moves: dict[str, dict[str, Any]] = {}
    for session in open_sessions(setup, data, part="test"):
        volumes, _ = read_whole(session)
        for test in TESTS:
            move = move_of(test, session)
            moves.setdefault(str(test), {})[session.subject_id] = dataclasses.asdict(move)
            path = moved_path(setup, data, test, session)
            if path.is_file():
                continue
            volume = apply(volumes[:, moved], move, session.spacing_mm)
            if data == "rigid":
                volume = registered(volume, onto=volumes[:, reference], session=session)
            with atomic.replacing(path) as temporary_path:
                np.save(temporary_path, volume.astype(np.float16))
    atomic.write_json(setup.out_dir / "moves.json", moves)


def moved_path(setup: Setup, data: str, test: Test, session: CachedSession) -> Path:
    visit = f"-{session.session}" if session.session else ""
    return setup.out_dir / "moved" / data / str(test).replace("/", "-") / f"{session.subject_id}{visit}.npy"


def registered(
    volume: npt.NDArray[np.float32], *, onto: npt.NDArray[np.float32], session: CachedSession
) -> npt.NDArray[np.float32]:
    """A (D, H, W) volume registered to another on the session's grid, as `data.register: rigid` does."""
    affine = session.grid.affine
    laid = register(Volume(volume.T, affine), Volume(onto.T, affine), place=session.subject_id)
    return resample(laid.data, laid.grid, session.grid).T


def test_inputs(setup: Setup, data: str) -> Iterator[tuple[CachedSession, Test, Tensor, Tensor, Tensor]]:
    """Sources (D, M, H, W) with one moved, target and head (D, 1, H, W), for every test subject and test."""
    moved = parse_scenario(setup.scenario).sources.index(setup.moved)
    for session in open_sessions(setup, data, part="test"):
        volumes, head = read_whole(session)
        for test in TESTS:
            volumes[:, moved] = np.load(moved_path(setup, data, test, session))
            images = torch.from_numpy(volumes.copy())
            yield session, test, images[:, :-1], images[:, -1:], torch.from_numpy(head)[:, None]


def heading(setup: Setup, seeds: Sequence[int], results: Results) -> str:
    commits = ", ".join(sorted({result["commit"] for result in results.values()}))
    tested = f" (tested on {setup.tested_dir.name})" if setup.tested_dir else ""
    return (
        f"{setup.data_dir.name}{tested}, {setup.scenario}, {setup.moved} moved, seeds {', '.join(map(str, seeds))},"
        f" {setup.steps} steps of 8 whole slices, one thread, commit {commits}.\n\n"
    )


def commit() -> str:
    """The commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


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
