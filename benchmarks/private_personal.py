"""What privacy costs a site that solves a last layer of its own, which spends no epsilon.

    python -m benchmarks.private_personal --clients 3,10 --epsilons 8,1 --seeds 0,1,2 --out runs/private-personal

Each run is a whole `simulations/run.py --dp epsilon=E` on built-in data, or on what further settings name, such as
`data.dir=DIR/ixi_like data.layout=ixi`. Three models are scored on the same test subjects: the public start, the run's
own, and that of the same federation without privacy; each as it is, and with a last layer that each site solves from
its training subjects. Finished runs and their scores are kept, so the command can be ended and started again. Intervals
are 95 % Student t over seeds.
"""

import argparse
import dataclasses
import json
from collections import defaultdict
from pathlib import Path

from agi_core.config.schema import RunConfig
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.run.checkpoint import load_weights
from agi_core.run.initial_weights import as_begun, initial_weights
from agi_core.run.scores import Scores
from benchmarks.commit import commit
from benchmarks.personal import opened
from benchmarks.results import interval, run
from simulations.baselines import SitesData, site_scores, trained_without_privacy, with_own_weights

MODELS = ("public start", "private", "without privacy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="3,10", help="numbers of sites, separated by commas (%(default)s)")
    parser.add_argument("--epsilons", default="8,1", help="the same of budgets (%(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="the same of seeds (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/private-personal"), help="folder of the runs (%(default)s)"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of every run")
    arguments = parser.parse_args()
    print(f"commit {commit()}; {' '.join(arguments.settings)}\n")
    own = [f"{model}, own last layer" for model in MODELS]
    print(f"| sites | epsilon | {' | '.join([*MODELS, *own])} | own layer: private minus without privacy |")
    print("|---" * 9 + "|")
    for clients in arguments.clients.split(","):
        for epsilon in arguments.epsilons.split(","):
            scored: dict[str, list[float]] = defaultdict(list)
            for seed in map(int, arguments.seeds.split(",")):
                run_dir = arguments.out / f"{clients}-sites-epsilon-{epsilon}-seed-{seed}"
                settings = ["--clients", clients, "--dp", f"epsilon={epsilon}", "engine=in-process"]
                if run(seed, run_dir, [*settings, *arguments.settings]):
                    raise SystemExit(f"the run {run_dir} failed, see above; start again afterwards")
                for name, psnr_db in psnrs_db(run_dir).items():
                    scored[name].append(psnr_db)
            cost = [a - b for a, b in zip(scored[own[1]], scored[own[2]], strict=True)]
            cells = [interval(scored[name]) for name in (*MODELS, *own)]
            print(f"| {clients} | {epsilon} | {' | '.join(cells)} | {interval(cost)} |", flush=True)


def psnrs_db(run_dir: Path) -> dict[str, float]:
    """{model: dB, the mean over the test subjects}, each as it is and with the sites' own last layers."""
    path = run_dir / "private_personal.json"
    if path.is_file():
        return {name: float(psnr_db) for name, psnr_db in json.loads(path.read_bytes()).items()}
    config, data = opened(run_dir)
    found = {}
    for name, network in zip(MODELS, networks(run_dir, config, data), strict=True):
        found[name] = Scores.over(site_scores(network, data.test), {}).final["psnr_db"]
        own = with_own_weights(network, data, task=dataclasses.replace(config.task, personal="head"))
        found[f"{name}, own last layer"] = own.final["psnr_db"]
    atomic.write_json(path, found)
    return found


def networks(run_dir: Path, config: RunConfig, data: SitesData) -> list[Network]:
    """Those of MODELS."""
    start, private = (Network(config, device=data.device) for _ in range(2))
    begun = as_begun(config, run_dir)
    start.load(initial_weights(begun))
    private.load(load_weights(run_dir))
    return [start, private, trained_without_privacy(begun, data)]


if __name__ == "__main__":
    main()
