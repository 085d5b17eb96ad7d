"""A federation on one machine: `python simulations/run.py --clients 5`.

Finds the scans, divides them into sites, trains one model over all of them, scores it and writes a report. Without
`--data` it uses built-in synthetic data.
"""

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from agi_core.host.flower_environment import QUIET

os.environ.update(QUIET | os.environ)

from rich.console import Console

from agi_core.config.load import load_config, to_yaml
from agi_core.config.presets import describe_presets
from agi_core.config.schema import DEPLOYMENT, RunConfig
from agi_core.data.phantom.tree import parse_sites, phantom_matches, write_phantom
from agi_core.errors import ConfigError, RunError
from agi_core.host.command_line import run_command
from agi_core.host.device import open_device
from agi_core.models.model_config import name_of
from agi_core.run import checkpoint, progress, run_folder
from agi_core.run.event_log import EventLog, events_of, read_events
from agi_core.run.events import DataFound, RunFinished, RunStarted, Warned
from agi_core.run.initial_weights import initial_weights, weights_file
from agi_core.run.scores import Metrics
from agi_core.run.summary import Summary
from client.app import app as client_app
from client.site.opened import open_site
from server.app import app as server_app
from simulations.baselines import open_sites, run_baselines
from simulations.display import Display, result_table
from simulations.local_grid import run_in_process
from simulations.pretrained import with_pretrained_weights
from simulations.results import origin, write_results
from simulations.sites import Federation, find_sites, prepare_caches, write_sites

RUNS_DIR = Path("runs")
BUILT_IN_DIR = Path(".cache")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    arguments = _parser().parse_intermixed_args(argv)  # key=value may stand before and after flags
    console = Console()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if arguments.help_config:
        console.print(
            to_yaml(load_config(None, overrides={})) + describe_presets(), markup=False, highlight=False, soft_wrap=True
        )
        return 0
    run_dir: Path | None = None

    def command() -> None:
        nonlocal run_dir
        run_dir = _run_dir(arguments)
        config = _config(arguments, run_dir)
        simulate(config, run_dir, resume=arguments.resume, compare=arguments.compare, console=console)

    return run_command(command, place=lambda: run_dir, hint=lambda: _how_to_go_on(run_dir))


def _how_to_go_on(run_dir: Path | None) -> str:
    if run_dir is None or not (run_dir / "checkpoints").is_dir():
        return ""
    return f"the same command with --resume --out {run_dir} goes on from the last finished round"


def simulate(config: RunConfig, run_dir: Path, *, resume: bool, compare: bool, console: Console) -> None:
    """One whole run: data, sites, federation, baselines, results.

    Raises:
        AgiError: anything that the user can mend; what was finished is kept.
    """
    if not resume:
        run_folder.check_new(run_dir)
    open_device(config.device, threads=config.threads)
    run_engine = _engine(config)
    config = with_built_in_data(config, console)
    initial_weights(config)  # an unusable file is named before the scans are read
    config, federation = find_sites(config)
    display = Display(console, config)
    with display.showing():
        prepare_caches(config, federation)
    if not resume:
        config = with_pretrained_weights(config, BUILT_IN_DIR, console)
        run_folder.create(run_dir, config)
    site_paths = write_sites(run_dir, config, federation)
    _announce(run_dir, config, federation, console)

    with display.showing():
        node_configs = [{"site": site, "site-config": str(path)} for site, path in site_paths.items()]
        run_config = {"run-dir": str(run_dir.resolve())}
        run_engine(server_app, client_app, node_configs=node_configs, run_config=run_config)
        events = EventLog(run_dir, elapsed_s=read_events(run_dir)[-1].t_s)
        data = open_sites(config, site_paths)
        names = ["voxel_regression"]
        names += ["initial_weights"] if weights_file(config) else []
        names += ["without_privacy"] if config.privacy.on else []
        names += ["local_only", "centralised"] if compare else []
        baselines = run_baselines(names, config=config, data=data, run_dir=run_dir, events=events)
        events.append(RunFinished())
    summary, report_path = write_results(
        run_dir,
        config=config,
        data=data,
        baselines=baselines,
        privacy=privacy_spent(config, run_dir, site_paths),
        wall_s=events.elapsed_s,
    )
    _conclude(summary, run_dir, report_path, compare=compare, console=console)


def _engine(config: RunConfig) -> Callable[..., None]:
    """The engine's function, before hours are spent on anything else.

    Raises:
        ConfigError: Ray is asked for, and not installed; or the engine is that of real sites.
    """
    if config.engine == DEPLOYMENT:
        raise ConfigError("engine=deployment is for real sites; start such a run with: python -m server submit")
    if config.engine == "in-process":
        return run_in_process
    from simulations.ray_engine import check_ray, run_on_ray  # here, because Ray is an extra

    check_ray()
    return partial(run_on_ray, threads=config.threads)


def with_built_in_data(config: RunConfig, console: Console) -> RunConfig:
    """The configuration with a data folder: the user's, or the built-in synthetic data, made on first use."""
    if config.data.dir is not None:
        return config
    layout: Literal["ixi", "brats"] = "brats" if config.data.layout == "brats" else "ixi"
    sites = parse_sites(config.data.phantom_sites)
    isotropic = config.model.dims == 3  # 5 mm slices would leave a volume little to show
    kind = f"phantom-{layout}-isotropic" if isotropic else f"phantom-{layout}"
    data_dir = BUILT_IN_DIR / "-".join([kind, *(f"{site}{count}" for site, count in sites.items())])
    if not phantom_matches(data_dir, layout=layout, sites=sites, seed=0, isotropic=isotropic):
        console.print(f"making built-in synthetic data in {data_dir} (once)", highlight=False)

        def on_subject(done: int, total: int) -> None:
            progress.report(progress.Step("making synthetic data", "", done, total))

        with Display(console, config).showing():
            write_phantom(data_dir, layout=layout, sites=sites, seed=0, isotropic=isotropic, on_subject=on_subject)
    site_map = str(data_dir / "partitioning.csv") if layout == "brats" else None
    data = dataclasses.replace(config.data, dir=str(data_dir), layout=layout, sites=site_map)
    return dataclasses.replace(config, data=data)


def _announce(run_dir: Path, config: RunConfig, federation: Federation, console: Console) -> None:
    """Print, and note in the events of a new run, what was found and how it was divided."""
    console.print(f"{federation.discovery.summary()}", markup=False, highlight=False, soft_wrap=True)
    model = name_of(config.model) + (" in 3-D" if config.model.dims == 3 else "")
    sites = ", ".join(f"{site} {len(subjects)}" for site, subjects in federation.training.items())
    unseen = ", ".join(f"{site} {len(subjects)}" for site, subjects in federation.unseen.items())
    console.print(
        f"{model}, {config.scenario}, reference {config.reference}: {config.rounds} rounds of"
        f" {config.training.local_steps} steps at {len(federation.training)} sites ({sites})"
        + (f"; unseen: {unseen}" if unseen else "")
        + (f"; starts from {path.name}" if (path := weights_file(config)) else ""),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for warning in federation.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    if checkpoint.load_last(run_dir) is not None:
        return
    events = EventLog(run_dir)
    events.cut_back(0)
    synthetic, anatomies = origin(config)
    found = DataFound(
        text=federation.discovery.summary(),
        sites={site: len(subjects) for site, subjects in federation.training.items()},
        unseen_sites={site: len(subjects) for site, subjects in federation.unseen.items()},
        synthetic=synthetic,
        anatomies=anatomies,
        skipped=dict(Counter(skipped.reason for skipped in federation.discovery.skipped)),
    )
    for event in (found, *(Warned(text=warning) for warning in federation.warnings)):
        events.append(event)


def privacy_spent(config: RunConfig, run_dir: Path, site_paths: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """{site: `spent_at`} from the sites' ledgers; empty when the run was not private."""
    if not config.privacy.on:
        return {}
    from client.work.private_training import spent_at  # here, because Opacus takes seconds to import and is an option

    spent = {}
    run = events_of(run_dir, RunStarted)[0].run_id
    for name in config.federation.sites:
        site = open_site(site_paths[name])
        assert site.file.privacy is not None  # noqa: S101  write_sites gave it to every site that trains
        subjects = [subject.id for subject in site.scans(config.task).subjects.train]
        spent[name] = spent_at(name, site.file.privacy, subjects=subjects, delta=config.privacy.delta, run=run)
    return spent


def _conclude(summary: Summary, run_dir: Path, report_path: Path, *, compare: bool, console: Console) -> None:
    scores, final, baselines = summary.scores, summary.scores.final, summary.baselines
    unseen = {f"{site} (unseen)": score for site, score in scores.unseen_sites.items()}
    rows: dict[str, Metrics] = {name: score.to_json() for name, score in {**scores.sites, **unseen}.items()}
    rows["all training sites"] = final
    rows |= {f"baseline: {name.replace('_', ' ')}": baseline.final for name, baseline in baselines.items()}
    label = f" - SYNTHETIC DATA, {summary.anatomies} anatomies" if summary.synthetic else ""
    console.print(result_table(f"{summary.scenario}, whole volume{label}", rows))
    if summary.suppressed:
        console.print(f"figures suppressed by the site's policy: {', '.join(summary.suppressed)}", highlight=False)
    elif not final:
        console.print("no site has a test subject: a site needs two subjects for one, three also to validate")
    if final:
        difference = final["psnr_db"] - baselines["voxel_regression"].final["psnr_db"]
        console.print(
            f"federated {final['psnr_db']:.2f} dB, {difference:+.2f} dB against voxel regression", highlight=False
        )
    if final and (plain := baselines.get("without_privacy")):
        cost = plain.final["psnr_db"] - final["psnr_db"]
        console.print(f"the same federation without privacy: {cost:+.2f} dB", highlight=False)
    if summary.privacy:
        by_site = ", ".join(
            f"{site} {spent['epsilon']:.2f} (RDP {spent['epsilon_rdp']:.2f})" for site, spent in summary.privacy.items()
        )
        console.print(
            f"patient-level privacy of the training subjects at delta {summary.delta:g}: epsilon {by_site}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"report: {report_path}", highlight=False, soft_wrap=True)
    console.print(f"use it: python -m agi_core synthesize --run {run_dir} --help", highlight=False, soft_wrap=True)
    if not compare:
        console.print(
            "not run: the local-only and centralised baselines; add them to this run with"
            f" python simulations/run.py --out {run_dir} --resume --compare",
            highlight=False,
            soft_wrap=True,
        )


def _config(arguments: argparse.Namespace, run_dir: Path) -> RunConfig:
    """The configuration of the command, or of the run that it resumes.

    Raises:
        ConfigError: a resumed run would go on with other settings.
    """
    overrides = {
        "clients": arguments.clients,
        "data.dir": arguments.data,
        "data.layout": arguments.layout,
        "data.sites": arguments.sites,
        "scenario": arguments.scenario,
        "partition": arguments.partition,
        "rounds": arguments.rounds,
        "engine": arguments.engine,
        "seed": arguments.seed,
    }
    assignments = [*(f"privacy.{setting}" for setting in arguments.dp), *arguments.settings]
    if not arguments.resume:
        return load_config(arguments.config, overrides=overrides, assignments=assignments)
    stored = run_folder.open_existing(run_dir)
    config = load_config(arguments.config, overrides=overrides, assignments=assignments, base=stored)
    theirs, ours = _flat(dataclasses.asdict(stored)), _flat(dataclasses.asdict(config))
    changed = "; ".join(f"{key}={theirs[key]} there, {ours[key]} here" for key in theirs if theirs[key] != ours[key])
    if changed:
        raise ConfigError(
            f"the run in {run_dir} has other settings ({changed}); resume it with its own, or start a new run"
        )
    return config


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"training.local_steps": 16, ...} of nested settings."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _run_dir(arguments: argparse.Namespace) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    if not arguments.resume:
        return RUNS_DIR / time.strftime("%Y-%m-%d-%H%M%S")
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
    parser.add_argument("--layout", help="how the folder is laid out: ixi, brats or bids (default ixi)")
    parser.add_argument(
        "--sites", help="CSV that maps subjects to hospitals (FeTS partitioning or BraTS mapping table)"
    )
    parser.add_argument(
        "--scenario", help="sources:target, for example T1,T2:PD (default of ixi) or t1n,t1c,t2w:t2f (of brats)"
    )
    parser.add_argument("--partition", help="site: by hospital (default); iid: shuffled")
    parser.add_argument("--rounds", type=int, help="rounds of training and averaging")
    parser.add_argument("--engine", help="in-process (default) or ray (needs the extra: pip install '.[ray]')")
    parser.add_argument(
        "--dp",
        action="append",
        default=[],
        metavar="key=value",
        help="patient-level privacy: epsilon=8 is each site's budget; any other setting of privacy likewise. The run"
        " starts from weights pre-trained on public synthetic data, or from initial_weights=FILE or random,"
        " and is compared with the same federation without privacy",
    )
    parser.add_argument("--compare", action="store_true", help="also train the local-only and the centralised baseline")
    parser.add_argument("--seed", type=int, help="of initial weights, crops and iid partition (default 0)")
    parser.add_argument("--out", help="run folder (default: a new one in runs/)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out (default: the newest in runs/)"
    )
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    parser.add_argument("--help-config", action="store_true", help="print every setting with its default")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="any setting; wins over everything else")
    return parser


if __name__ == "__main__":
    sys.exit(main())
