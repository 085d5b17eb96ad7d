"""A federation on one machine: `python simulations/run.py --clients 5`.

This is the command line; `simulations/simulation.py` does what it says.
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agi_core.cells import is_vocabulary, whole_of
from agi_core.config.explained import explained
from agi_core.config.load import load_config
from agi_core.config.presets import describe_presets
from agi_core.config.schema import DataConfig, RunConfig
from agi_core.errors import ConfigError, RunError
from agi_core.host.command_line import run_command, terminable
from agi_core.host.console import plain_console
from agi_core.layouts import LAYOUTS
from agi_core.run import run_folder
from agi_core.run.initial_weights import PUBLIC, is_public, weights_file

RUNS_DIR = Path("runs")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 the user's mistake, 130 or 143 interrupted."""
    arguments = _parser().parse_intermixed_args(argv)  # key=value may stand before and after flags
    console = plain_console()
    if arguments.help_config:
        console.print(explained(load_config(None, overrides={})) + describe_presets())
        return 0

    def command() -> None:
        if arguments.dry_run:
            from simulations.dry_run import dry_run

            dry_run(_config(arguments), console, run_dir=arguments.out)
            return
        is_new = not (arguments.out or arguments.resume)
        arguments.out = arguments.out or _run_dir(resume=arguments.resume)
        # A cell by itself would spend from a ledger of its own, which the whole run's report does not count.
        if (whole := whole_of(arguments.out.resolve())) != arguments.out.resolve():
            raise RunError(f"{arguments.out} is a cell of the run {whole}; name the whole run")
        try:
            config = _config(arguments)
            # Here, because torch, Flower and figures take seconds to import, and --help has no use for them.
            from simulations.simulation import simulate
            from simulations.study import study

            logging.getLogger("flwr").setLevel(logging.ERROR)  # Flower sets another level when it is imported
            run = study if is_vocabulary(config.scenario) else simulate
            run(config, arguments.out, resume=arguments.resume, compare=arguments.compare, console=console)
        finally:
            if is_new:
                with suppress(OSError):
                    arguments.out.rmdir()  # succeeds where it is empty: nothing was begun

    def how_to_go_on() -> str:
        begun = arguments.out and (arguments.out / "checkpoints").is_dir()
        how = f"the same command with --resume --out {arguments.out} goes on from the last finished round"
        return how if begun else ""

    with terminable():
        return run_command(command, place=lambda: arguments.out, hint=how_to_go_on)


def _config(arguments: argparse.Namespace) -> RunConfig:
    """The configuration of the command, or of the run that it resumes.

    Raises:
        ConfigError: a setting cannot be read, or a resumed run would go on with other settings.
    """
    if unreadable := [setting for setting in arguments.dp if "=" not in setting]:
        raise ConfigError(f"--dp {unreadable[0]}: write a setting of privacy, for example --dp epsilon=8")
    of_data = {"data": "data.dir"} | {name: f"data.{name}" for name in ("layout", "sites", "unseen_anatomy")}
    settings = (*of_data, "clients", "scenario", "partition", "rounds", "engine", "seed")
    overrides = {of_data.get(name, name): getattr(arguments, name) for name in settings}
    assignments = [*(f"privacy.{setting}" for setting in arguments.dp), *arguments.settings]
    if not arguments.resume:
        return _with_absolute_paths(load_config(arguments.config, overrides=overrides, assignments=assignments))
    stored = _with_absolute_paths(run_folder.open_existing(arguments.out))
    config = load_config(arguments.config, overrides=overrides, assignments=assignments, base=stored)
    config = _with_absolute_paths(config)
    if config.initial_weights == PUBLIC and (path := weights_file(stored)) and is_public(path):
        config = dataclasses.replace(config, initial_weights=stored.initial_weights)  # what became of the word
    theirs, ours = _flat(dataclasses.asdict(stored)), _flat(dataclasses.asdict(config))
    changed = "; ".join(f"{key}={theirs[key]} there, {ours[key]} here" for key in theirs if theirs[key] != ours[key])
    if changed:
        raise ConfigError(
            f"the run in {arguments.out} has other settings ({changed}); resume it with its own, or start a new run"
        )
    return config


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """The configuration as it can be resumed from any folder."""

    def absolute(path: str | None) -> str | None:
        return path and str(Path(path).absolute())

    data = dataclasses.replace(
        config.data,
        dir=absolute(config.data.dir),
        sites=absolute(config.data.sites),
        segmenter=absolute(config.data.segmenter),
        cache_dir=str(Path(config.data.cache_dir).absolute()),
    )
    weights = weights_file(config)
    initial = str(weights.absolute()) if weights else config.initial_weights
    return dataclasses.replace(config, data=data, initial_weights=initial)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"training.local_steps": 16, ...} of nested settings, as YAML has them: tuples are lists."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = [*value] if isinstance(value, tuple) else value
    return flat


def _run_dir(*, resume: bool) -> Path:
    """A new run folder, or that of the newest run."""
    if not resume:
        return run_folder.unused(RUNS_DIR)
    runs = sorted(path.parent for path in RUNS_DIR.glob("*/config.yaml"))
    if not runs:
        raise RunError(f"there is no run in {RUNS_DIR}/ to resume; name its folder with --out")
    return max(runs, key=lambda run: (run / "config.yaml").stat().st_mtime)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python simulations/run.py",
        description="Train one AGI-Net over several hospitals' scans on one machine, and write a report.",
        epilog="Any other setting: key=value, for example training.local_steps=40 model.conv=plain threads=2.",
    )
    parser.add_argument("--clients", type=int, help="sites that train (default 5)")
    parser.add_argument("--data", help="folder of scans (default: built-in synthetic data)")
    parser.add_argument(
        "--layout", help=f"how the folder is laid out: one of {', '.join(LAYOUTS)} (default {DataConfig.layout})"
    )
    parser.add_argument(
        "--sites", help="CSV that maps subjects to hospitals (FeTS partitioning or BraTS mapping table)"
    )
    usual = "; ".join(f"{layout.default_scenario} of {name}" for name, layout in LAYOUTS.items())
    parser.add_argument(
        "--scenario",
        help=f"sources:target, or T1,T2,PD:any for every subset to any other (default, by layout: {usual})",
    )
    parser.add_argument("--partition", help="site: by hospital (default); iid: shuffled")
    parser.add_argument(
        "--unseen-anatomy", metavar="NAME", help="a brain of the built-in data that only tests, such as ms19"
    )
    parser.add_argument("--rounds", type=int, help="rounds of training and averaging")
    parser.add_argument(
        "--engine",
        help="processes: sites side by side on the CPU's cores (default); in-process: one after another;"
        " ray: on several GPUs or machines (needs the extra: pip install '.[ray]')",
    )
    parser.add_argument(
        "--dp",
        action="append",
        default=[],
        metavar="key=value",
        help="patient-level privacy: epsilon=8 is each site's budget; any other setting of privacy likewise. The run"
        " starts from weights pre-trained on public synthetic data, or from initial_weights=FILE or random,"
        " and is compared with the same federation without privacy",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also train the centralised baseline (and local-only, if private: the column alone)",
    )
    parser.add_argument("--seed", type=int, help="of initial weights, crops and iid partition (default 0)")
    parser.add_argument("--out", type=Path, help="run folder (default: a new one in runs/)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on with the run in --out (default: the newest in runs/)")
    how.add_argument("--dry-run", action="store_true", help="print who holds what and what would be trained, and stop")
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    parser.add_argument("--help-config", action="store_true", help="print every setting with its default")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="any setting; wins over everything else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
