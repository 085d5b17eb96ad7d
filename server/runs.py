"""Runs of the coordinator: a run is submitted, stopped, and resumed.

`runs.lock` in the coordinator's folder is held over each of these, from the look at what a run does to the note of what
works on it: operators and `up --resume` begin and end runs at the same time.
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from agi_core.cells import is_vocabulary, whole_of
from agi_core.config.schema import DEPLOYMENT, FederationConfig, RunConfig
from agi_core.errors import AgiError, ConfigError, RunError
from agi_core.host import atomic, lock
from agi_core.run import checkpoint, run_folder
from agi_core.run.event_log import read_events
from agi_core.run.events import RunPaused
from agi_core.run.initial_weights import PUBLIC, initial_weights, keep, weights_file
from server import aggregation, flower_cli, registry, run_state
from server.coordinator import CoordinatorDir
from server.flower_cli import FlowerRun
from server.study_plan import check_start, with_offers

FLOWER_RUN = "flower-run.txt"  # in the run folder: Flower's id of the process on the run, or of the newest one
BEGUN = "begun.txt"  # in the run folder: Flower's id of the newest process that has come to hold the run
LOCAL = ("clients", "partition", "engine", "device", "threads", "data")  # settings of a simulation, or of each hospital
STOPPED = "stopped.txt"  # in the run folder: it was stopped by hand, and waits for `resume`
STOP_S = 15.0
REGISTER = "python -m server register --name NAME KEY.pub --subjects N"


def submit(coordinator: CoordinatorDir, config: RunConfig, *, name: str | None) -> Path:
    """Make a new run folder and start the run; returns the folder.

    The folder is called `name`, or after date and time. Its configuration has the sites and their sizes filled in.

    Raises:
        ConfigError: settings are refused or name sites that are not registered, or Flower does not know a site.
        RunError: the coordinator does not answer, or the folder exists. Nothing is left behind, but of a run that has
            begun before the answer failed.
    """
    with lock.alone(coordinator.runs_lock_path):
        return _submit(coordinator, config, name)


def _submit(coordinator: CoordinatorDir, config: RunConfig, name: str | None) -> Path:
    registered = registry.read(coordinator)
    config = resolved(config, registered)
    run_dir = coordinator.runs_dir / (name or time.strftime("%Y-%m-%d-%H%M%S"))
    if run_dir.parent != coordinator.runs_dir or run_dir.name.startswith("."):
        raise ConfigError(f"--name {name} must be a plain folder name")
    if run_dir.exists():
        raise RunError(f"there is a run {run_dir.name} already; choose another --name, or resume it")
    _check_known(coordinator, {site: registered[site] for site in _all_sites(config.federation)})
    run_folder.create(run_dir, config)
    try:
        keep(run_dir, config)
        _start(coordinator, run_dir)
    except AgiError as error:
        if run_state.is_held(run_dir) or (run_dir / BEGUN).is_file():
            begun = f"run {run_dir.name} has begun all the same; watch it with: python -m server status"
            raise RunError(f"{error}; {begun}") from None
        shutil.rmtree(run_dir)
        raise
    return run_dir


def resume(coordinator: CoordinatorDir, name: str, *, quorum: int | None) -> Path:
    """Go on with a run after its last finished round; returns its folder. The sites' sizes become those that are
    registered now; a site that has left since keeps its own. `quorum` replaces the run's own; None keeps it.

    Raises:
        RunError: no such run, it is running or finished, or the coordinator does not answer.
        ConfigError: the quorum does not fit the run's sites.
    """
    run_dir = find_whole(coordinator, name)
    with lock.alone(coordinator.runs_lock_path):
        if (run_dir / "summary.json").is_file():
            raise RunError(f"{name} is finished; its report is {run_dir / 'report.html'}")
        if run_state.is_held(run_dir):
            raise RunError(f"{name} is running; watch it with: python -m server status")
        process = flower_run(coordinator, run_dir)
        begun = _noted(run_dir, BEGUN) == process.id  # Flower says `running` seconds before
        if process.is_starting or not (process.is_finished or begun):
            raise RunError(f"{name} is about to start; watch it with: python -m server status")
        if not process.is_finished:  # the process is gone; Flower notices that after a minute
            flower_cli.stop(coordinator, process.id)
        config = run_folder.open_existing(run_dir)
        federation = dataclasses.replace(config.federation, quorum=quorum or config.federation.quorum)
        federation = _with_registered(federation, registry.read(coordinator))
        run_folder.write_config(run_dir, dataclasses.replace(config, federation=federation))
        _start(coordinator, run_dir)
    return run_dir


def add_site(coordinator: CoordinatorDir, name: str, *, site: str) -> Path:
    """Let one more registered site train in a run that stands still, from its next round on; returns the run's folder.

    Raises:
        RunError: no such run, it is running or finished, or the coordinator does not answer.
        ConfigError: the site takes part already, is not registered, or has no number of subjects; or no round is left.
    """
    run_dir, registered = find_whole(coordinator, name), registry.read(coordinator)
    with lock.alone(coordinator.runs_lock_path):
        if (run_dir / "summary.json").is_file():
            raise RunError(f"{name} is finished; begin another study with: python -m server submit --from-run {name}")
        if run_state.is_held(run_dir):
            raise RunError(f"{name} is running; first stop it with: python -m server stop {name}")
        config = run_folder.open_existing(run_dir)
        if is_vocabulary(config.scenario):
            raise ConfigError(
                f"{name} is a run over a vocabulary, whose cells keep their sites; begin another with {site}"
            )
        if (last := checkpoint.load_last(run_dir)) is not None and last[0] >= config.rounds:
            raise ConfigError(
                f"the last round of {name} is over, so {site} would not train; resume it, then begin another"
            )
        federation = config.federation
        if site in _all_sites(federation):
            raise ConfigError(f"{site} takes part in {name} already")
        if site not in registered:
            raise _not_registered([site], registered)
        _check_known(coordinator, {site: registered[site]})
        federation = dataclasses.replace(federation, sites=tuple(sorted((*federation.sites, site))))
        federation = _with_registered(federation, registered)
        run_folder.write_config(run_dir, dataclasses.replace(config, federation=federation))
    return run_dir


def stop(coordinator: CoordinatorDir, name: str | None) -> Path:
    """Stop a run (None: the newest) and write its report so far; returns its folder.

    Raises:
        RunError: no such run, it is not running, or the coordinator does not answer.
    """
    run_dir = find_whole(coordinator, name) if name else newest(coordinator)
    with lock.alone(coordinator.runs_lock_path):
        if run_dir is None or (process := flower_run(coordinator, run_dir)).is_finished:
            said = f"{run_dir.name} is not running; see: python -m server status" if run_dir else "there is no run yet"
            raise RunError(said)
        flower_cli.stop(coordinator, process.id)
        (run_dir / STOPPED).touch()
    deadline = time.monotonic() + STOP_S
    while run_state.is_held(run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    cells = is_vocabulary(run_folder.open_existing(run_dir).scenario)
    unfinished = [path for path in run_dir.glob("cells/*") if not (path / "summary.json").is_file()]
    for folder in unfinished if cells else [run_dir]:
        if (folder / "events.jsonl").is_file():
            from agi_core.report.report import build_report  # here, because it brings matplotlib

            build_report(folder)
    return run_dir


def find(coordinator: CoordinatorDir, name: str) -> Path:
    """The folder of a run. Raises RunError when there is none of that name."""
    run_dir = coordinator.runs_dir / name
    if not (run_dir / "config.yaml").is_file():
        names = sorted(path.parent.name for path in coordinator.runs_dir.glob("*/config.yaml"))
        raise RunError(f"there is no run {name} in {coordinator.runs_dir}; runs: {', '.join(names) or 'none yet'}")
    return run_dir


def find_whole(coordinator: CoordinatorDir, name: str) -> Path:
    """As `find`. Raises RunError also where it is the folder of a cell: it is begun and ended with its run."""
    run_dir = find(coordinator, name)
    if (whole := whole_of(run_dir)) != run_dir:
        raise RunError(f"{name} is a cell of the run {whole.name}; name the whole run")
    return run_dir


def newest(coordinator: CoordinatorDir) -> Path | None:
    """The folder of the run that was started or resumed last."""
    return next(iter(by_start(coordinator)), None)


def by_start(coordinator: CoordinatorDir) -> list[Path]:
    """The folders of all runs, the one that was started or resumed last first."""
    started: dict[Path, int] = {}
    for path in coordinator.runs_dir.glob(f"*/{FLOWER_RUN}"):
        with contextlib.suppress(FileNotFoundError):  # somebody has removed the folder meanwhile
            started[path.parent] = path.stat().st_mtime_ns
    return sorted(started, key=started.__getitem__, reverse=True)


def flower_run(coordinator: CoordinatorDir, run_dir: Path) -> FlowerRun:
    """The newest process of a run, as Flower sees it. A run that was never started counts as finished.

    Raises:
        RunError: the coordinator does not answer.
    """
    noted = _noted(run_dir, FLOWER_RUN)
    return FlowerRun("", "finished", "") if noted is None else flower_cli.run_status(coordinator, noted)


def resolved(config: RunConfig, registered: Mapping[str, registry.Entry]) -> RunConfig:
    """The configuration that the run folder keeps. Sites and their sizes are filled in, so that every site and the
    report know them. A reference that was left out is chosen before the first round (`server.poses`).

    Raises:
        ConfigError: a setting is a hospital's own affair, the file of initial weights cannot be used, or the sites do
            not fit the registry, the quorum, the aggregation or the vocabulary.
    """
    default = RunConfig()
    if refused := [key for key in LOCAL if getattr(config, key) != getattr(default, key)]:
        raise ConfigError(
            f"{', '.join(refused)}: not a setting of a deployed run; data, device and threads stand in each hospital's"
            " own site file, and its sites are federation.sites=[...]"
        )
    if config.initial_weights == PUBLIC:
        raise ConfigError(
            f"initial_weights={PUBLIC} is for simulations; make a file with python -m agi_core pretrain --out FILE, and"
            " give initial_weights=FILE"
        )
    if is_vocabulary(config.scenario):
        check_start(config)
    elif path := weights_file(config):
        config = dataclasses.replace(config, initial_weights=str(path.resolve()))
        initial_weights(config)  # an unusable file is named before the run is made
    chosen = dataclasses.replace(config.federation, subjects={}, keys={})
    federation = _with_registered(_with_sites(chosen, registered), registered)
    config = dataclasses.replace(config, engine=DEPLOYMENT, federation=federation)
    if is_vocabulary(config.scenario):
        return with_offers(config, registered)
    if federation.offers:
        raise ConfigError(
            f"federation.offers belongs to a vocabulary, such as T1,T2,PD:any; leave it out of a run of"
            f" {config.scenario}"
        )
    return config


def interrupted(coordinator: CoordinatorDir) -> list[Path]:
    """The folders of the runs that ended without a pause, an end, or a `stop` by hand; not those of damaged events."""
    return [
        run_dir
        for run_dir in by_start(coordinator)
        if not run_state.is_held(run_dir)
        and not any((run_dir / name).is_file() for name in (STOPPED, "summary.json"))
        and not _is_paused(run_dir)
    ]


def _is_paused(run_dir: Path) -> bool:
    try:
        log = read_events(run_dir) if (run_dir / "events.jsonl").is_file() else []
    except RunError:  # damaged, which `status` names; it must not hold up the other runs
        return True
    return bool(log) and isinstance(log[-1].event, RunPaused)


def note_process(run_dir: Path, flower_run_id: str) -> None:
    """Note which process has come to hold the run, by Flower's id of it. The note of who started it keeps its time,
    which orders runs.

    Raises:
        RunError: it cannot be written, or the disk is full.
    """
    if _noted(run_dir, FLOWER_RUN) != flower_run_id:
        atomic.write_text(run_dir / FLOWER_RUN, flower_run_id)
    atomic.write_text(run_dir / BEGUN, flower_run_id)


def _noted(run_dir: Path, name: str) -> str | None:
    path = run_dir / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _start(coordinator: CoordinatorDir, run_dir: Path) -> None:
    (run_dir / STOPPED).unlink(missing_ok=True)
    before = _noted(run_dir, FLOWER_RUN)
    flower_run_id = flower_cli.run(coordinator, run_dir)
    if _noted(run_dir, FLOWER_RUN) == before:  # else a process works on the run by now, which has noted itself
        atomic.write_text(run_dir / FLOWER_RUN, flower_run_id)


def _with_sites(federation: FederationConfig, registered: Mapping[str, registry.Entry]) -> FederationConfig:
    """With all its sites, in the order of names. If no training site is chosen, every registered site trains, except
    the unseen ones.

    Raises:
        ConfigError: a site is not registered or stands twice, or none is left to train.
    """
    unseen = federation.unseen_sites
    training = federation.sites or [site for site in registered if site not in unseen]
    chosen = [*training, *unseen]
    if unknown := sorted(set(chosen) - set(registered)):
        raise _not_registered(unknown, registered)
    if not training:
        raise ConfigError(f"no site is registered; add one with: {REGISTER}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError("a site stands twice in federation.sites and federation.unseen_sites; name each once")
    return dataclasses.replace(federation, sites=tuple(sorted(training)), unseen_sites=tuple(sorted(unseen)))


def _not_registered(unknown: Iterable[str], registered: Iterable[str]) -> ConfigError:
    return ConfigError(
        f"not registered: {', '.join(unknown)}; registered: {', '.join(registered) or 'no site yet'};"
        f" add one with: {REGISTER}"
    )


def _all_sites(federation: FederationConfig) -> list[str]:
    return [*federation.sites, *federation.unseen_sites]


def _check_known(coordinator: CoordinatorDir, chosen: Mapping[str, registry.Entry]) -> None:
    """Raise ConfigError when Flower lets one of the sites not in: a run would wait for it in vain."""
    known = flower_cli.nodes(coordinator)
    if unknown := [site for site, entry in chosen.items() if entry.node_id not in known]:
        raise ConfigError(
            f"{', '.join(unknown)}: Flower does not know its key; register it again with: python -m server register"
            f" --name {unknown[0]} KEY.pub, or shut it out with: python -m server unregister {unknown[0]}"
        )


def _with_registered(federation: FederationConfig, registered: Mapping[str, registry.Entry]) -> FederationConfig:
    """With the number of subjects and the key of every site; one that has left since keeps its own. No reply may count
    more.

    Raises:
        ConfigError: a site is registered without one, or the sites are too few for the quorum or the aggregation.
    """
    sizes = {**federation.subjects, **{site: its.subjects for site, its in registered.items() if its.subjects}}
    keys = {**federation.keys, **{site: its.public_key for site, its in registered.items()}}
    if unknown := [site for site in _all_sites(federation) if site not in sizes]:
        raise ConfigError(
            f"{', '.join(unknown)}: registered without a number of subjects, which limits a site's weight in averages;"
            f" add it with: {REGISTER} --subjects N"
        )
    aggregation.check_sites(federation)
    chosen = _all_sites(federation)
    return dataclasses.replace(
        federation,
        subjects={site: sizes[site] for site in chosen},
        keys={site: keys[site] for site in chosen if site in keys},
    )
