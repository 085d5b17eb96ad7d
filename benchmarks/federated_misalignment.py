"""The misalignment benchmark on federated models, at hospitals whose sources are misaligned each in its own way.

    python -m benchmarks.federated_misalignment --data DIR/ixi_like

The training subjects of `benchmarks.misalignment` are dealt to three hospitals. Guys' T1s stay as acquired, HH's are
moved by 3 mm and 3 degrees in 3-D, IOP's by up to 6 voxels in the plane, once and for all, in the files. A simulation
trains on them as a user's would, and its last model takes the same tests as the centralised ones. Resumable: a result
is kept while its settings are the same.
"""

import argparse
import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from agi_core.config.load import load_config, task_hash, task_json
from agi_core.config.schema import MisalignKind, RunConfig
from agi_core.data.misalignment import apply, draw
from agi_core.data.nifti import read_volume, write_scan
from agi_core.data.partition import split_subjects
from agi_core.data.scans import Scans, discover
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.run.checkpoint import load_weights
from agi_core.scenario import parse_scenario
from benchmarks.commit import commit
from benchmarks.misalignment_data import prepare_tests
from benchmarks.misalignment_report import tables
from benchmarks.misalignment_score import score
from benchmarks.misalignment_setup import MAIN, TESTS, Setup
from benchmarks.misalignment_variants import ALIGN, CAGR, PLAIN
from simulations.simulation import simulate

SCENARIO, REFERENCE, MOVED = "T1,T2:PD", "T2", "T1"
MOVES: dict[str, tuple[MisalignKind, float, bool] | None] = {
    "Guys": None,
    "HH": ("rigid", 3.0, False),
    "IOP": ("translation", 6.0, True),
}
"""As `draw` takes them."""
ROUNDS, LOCAL_STEPS = 10, 15
SETTINGS = (
    *(f"rounds={ROUNDS}", f"training.local_steps={LOCAL_STEPS}", "training.batch_size=8"),
    *("grid.crop=[128,128]", f"clients={len(MOVES)}", "model.prior=none", "personal=none"),
)
STEPS = len(MOVES) * ROUNDS * LOCAL_STEPS
VARIANTS = {"plain": PLAIN, "AGI-Net (CAGR)": CAGR, "aligned": (*PLAIN, *ALIGN)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder in IXI's layout with hospitals Guys, HH, IOP")
    parser.add_argument("--variants", default="plain;aligned", help=f"of {'; '.join(VARIANTS)} (%(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/misalignment"), help="(%(default)s)")
    arguments = parser.parse_args()
    names, seeds = arguments.variants.split(";"), [int(seed) for seed in arguments.seeds.split(",")]
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"no variant is called {', '.join(unknown)}; there are {'; '.join(VARIANTS)}")
    if not arguments.data.is_dir():
        parser.error(f"there is no folder {arguments.data}")
    torch.set_num_threads(1)
    setup = Setup(
        data_dir=arguments.data,
        tested_dir=None,
        registered_dir=None,
        layout="ixi",
        scenario=SCENARIO,
        reference=REFERENCE,
        moved=MOVED,
        register_target=False,
        steps=STEPS,
        out_dir=arguments.out.absolute(),
        settings=(),
    )
    prepare_tests(setup, "native")
    hospitals = move_hospitals(setup, arguments.out / "federated" / "data")
    results: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in seeds:
        for name in names:
            path = arguments.out / "federated" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            settings = task_hash(task_json(configuration(name, seed, data_dir=hospitals).task))
            result = json.loads(path.read_text()) if path.is_file() else {}
            if result.get("config") != settings:
                result = run(setup, name, seed, data_dir=hospitals, run_dir=path.with_suffix("")) | {"config": settings}
                atomic.write_json(path, result)
            results[name, seed] = result
            print(f"{path.stem}: {mean_psnr_db(results[name, seed]):.2f} dB", flush=True)
    text = f"{arguments.data.name}, T1 misaligned by hospital, {' '.join(SETTINGS)}, one thread, commit {commit()}.\n\n"
    text += tables(results, names, seeds, main=dict.fromkeys(names, str(MAIN)), tests=list(map(str, TESTS)))
    atomic.write_text(arguments.out / "federated" / "table.md", text)
    print(text)


def move_hospitals(setup: Setup, data_dir: Path) -> Path:
    """A folder with the training subjects alone, every hospital's T1 moved in its own way; made once."""
    if data_dir.is_dir():
        return data_dir
    found = discover(Scans(setup.data_dir, "ixi"), parse_scenario(SCENARIO).modalities)
    train = split_subjects([subject.id for subject in found.subjects]).train
    making = data_dir.with_name(".data")
    shutil.rmtree(making, ignore_errors=True)
    for subject in (subject for subject in found.subjects if subject.id in train):
        for session in subject.sessions:
            for modality, path in session.paths.items():
                copy = making / path.relative_to(setup.data_dir)
                copy.parent.mkdir(parents=True, exist_ok=True)
                move = MOVES[subject.site] if modality == MOVED else None
                if move is None:
                    copy.symlink_to(path.resolve())
                    continue
                scan = read_volume(path)
                kind, size, up_to = move
                rng = np.random.default_rng(int.from_bytes(subject.id.encode()))
                spacing_mm = scan.grid.spacing_mm
                drawn = draw(rng, kind, size, spacing_mm=spacing_mm, up_to=up_to)
                moved = apply(np.ascontiguousarray(scan.data.T), drawn, spacing_mm)
                write_scan(copy, moved.T, affine=scan.affine, descrip="moved T1")
    making.rename(data_dir)
    return data_dir


def run(setup: Setup, name: str, seed: int, *, data_dir: Path, run_dir: Path) -> dict[str, Any]:
    """Train one variant over the hospitals and score its last model."""
    shutil.rmtree(run_dir, ignore_errors=True)
    config = configuration(name, seed, data_dir=data_dir)
    start_s = time.process_time()
    simulate(config, run_dir, resume=False, compare=False, console=Console(file=io.StringIO()))
    step_cpu_s = (time.process_time() - start_s) / STEPS
    network = Network(config)
    network.load(load_weights(run_dir))
    scores = score(setup, network, data="native")
    return {"variant": name, "seed": seed, "commit": commit(), "step_cpu_s": step_cpu_s, "scores": scores}


def configuration(name: str, seed: int, *, data_dir: Path) -> RunConfig:
    """Of a simulation of one variant."""
    shared = (f"scenario='{SCENARIO}'", f"reference={REFERENCE}", f"seed={seed}", "threads=1")
    return load_config(
        None,
        overrides={"data.dir": str(data_dir), "data.layout": "ixi"},
        assignments=[*SETTINGS, *shared, *VARIANTS[name]],
    )


def mean_psnr_db(result: dict[str, Any]) -> float:
    return float(np.mean([row["psnr_db"] for row in result["scores"][str(MAIN)].values()]))


if __name__ == "__main__":
    main()
