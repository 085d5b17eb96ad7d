"""The commands of `python -m server` that end by themselves: each does its work and says what comes next."""

import argparse
import json
from pathlib import Path

from agi_core.cells import is_vocabulary
from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import ConfigError
from agi_core.host.keys import certificate_fingerprint, fingerprint
from agi_core.report.markup import plural
from agi_core.run import checkpoint, run_folder
from agi_core.scenario import parse_scenario
from server import certificates, registry, runs, strikes
from server.coordinator import CoordinatorDir
from server.status import coordinator_status
from server.status_text import status_text
from server.study_plan import cell_config, plan_of
from server.tensorboard import write_scalars
from server.watch import watch

WATCH = "watch it with: python -m server status --watch"


def certs(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Make the certificate authority (once) and a new server certificate."""
    files = coordinator.certificates
    known = files.ca_path.exists() and files.request_key_path.exists()
    before = certificates.names(files)
    certificates.issue(files, name=arguments.name, ips=arguments.ip)
    names, end = certificates.names(files), certificates.expiry(files)
    print(f"server certificate for {', '.join(names)}, valid until {end:%Y-%m-%d}: {files.server_path}")
    public = files.public_path.read_text(encoding="utf-8")
    print(f"coordinator.pub {fingerprint(public)}\nca.crt SHA256 {certificate_fingerprint(files.ca_path)}")
    if not known:
        print(f"give every hospital {files.ca_path} and {files.public_path}, and read the two fingerprints to it")
        print(f"keep {files.ca_key_path} and {files.request_key_path} secret, and back them up")
        print("next: the gateway (nginx, step 3 of docs/coordinator.md), then python -m server up")
        return
    if lost := [name for name in before if name not in names]:
        print(f"authority and key are the same as before, but the last certificate was for {', '.join(lost)} too")
        print("hospitals that connect there are cut off: type certs again with the same --name and --ip as then, or")
        print("have them change coordinator.address in their site files")
    else:
        print("authority and key are the same as before: nothing changes at the hospitals")
    print("next: restart the coordinator and nginx, which have read the old certificate")


def register(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Let a hospital in."""
    entry, outcome = registry.register(
        coordinator,
        name=arguments.name,
        key_path=arguments.key,
        subjects=arguments.subjects,
        modalities=arguments.modalities,
    )
    offers = f"; it offers {', '.join(entry.modalities)}" if entry.modalities else ""
    print(f"{arguments.name} {outcome}, key {entry.fingerprint}{offers}")
    if outcome == "registered":
        print("next: compare this fingerprint with the hospital by telephone; then it may start its client")
        if entry.subjects is None:
            print(f"no run can begin with {arguments.name} until it is registered again with --subjects N")
        return
    if arguments.subjects:
        print("a run that goes on counts so many after: python -m server stop, then resume")
    if arguments.modalities:
        print("runs that were submitted keep what it offered; the next submit uses it")


def unregister(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Shut a hospital out."""
    registry.unregister(coordinator, arguments.name)
    print(f"{arguments.name} is shut out")


def release(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Let a site out of quarantine."""
    forgotten = strikes.release(coordinator.strikes_path, arguments.name)
    print(f"{arguments.name} is free again; forgotten:")
    for strike in forgotten:
        print(f"  run {strike.run}, round {strike.round}: {strike.reason}")


def submit(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Start a run."""
    overrides: dict[str, str] = {}
    if arguments.from_run:
        if any(setting.startswith("initial_weights=") for setting in arguments.settings):
            raise ConfigError("--from-run and initial_weights=... both say how the run begins; leave one of them out")
        overrides["initial_weights"] = str(checkpoint.last_path(runs.find(coordinator, arguments.from_run)))
    config = load_config(arguments.config, overrides=overrides, assignments=arguments.settings)
    run_dir = runs.submit(coordinator, config, name=arguments.name)
    print(f"run {run_dir.name} started: {run_dir}")
    started = run_folder.open_existing(run_dir)
    if is_vocabulary(started.scenario):
        _print_plan(started)
    if config.reference is None:
        scenario = parse_scenario(started.scenario)
        last = "of each cell" if is_vocabulary(started.scenario) else scenario.reference(None)
        print(
            f"reference: {last}, the last source, because a private run measures nothing; reference=... names another"
            if config.privacy.on
            else "reference: measured at the sites before the first round; reference=... names one"
        )
    print(WATCH)


def _print_plan(config: RunConfig) -> None:
    """What is trained where, and which cells have too few sites for the rule of aggregation that was asked for."""
    plan, rule = plan_of(config), config.federation.aggregation
    print(f"{plural(config.rounds, 'round')} of each cell:\n{plan}")
    cells = {cell: cell_config(config, cell, plan) for cell in plan.trained}
    if config.privacy.epsilon:
        each = ", ".join(f"{cell} {its.privacy.epsilon:.2f}" for cell, its in cells.items())
        print(f"planned with epsilon, of the {config.privacy.epsilon:g} of each site for all its cells: {each}")
    if few := [cell for cell, its in cells.items() if its.federation.aggregation != rule]:
        print(f"too few sites for {rule}, so the mean, which withstands nobody: {', '.join(map(str, few))}")


def resume(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Go on with a run."""
    run_dir = runs.resume(coordinator, arguments.run, quorum=arguments.quorum)
    print(f"run {run_dir.name} goes on after its last finished round\n{WATCH}")


def add_site(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Let one more site train in a run."""
    run_dir = runs.add_site(coordinator, arguments.run, site=arguments.site)
    print(f"{arguments.site} trains in {run_dir.name} from its next round on")
    print(f"next: python -m server resume {run_dir.name}")


def stop(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Stop a run."""
    run_dir = runs.stop(coordinator, arguments.run)
    print(f"run {run_dir.name} stopped; go on with: python -m server resume {run_dir.name}")


def export(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Write a run's model as one zip."""
    from agi_core.export.export import BEGINNING, export

    run_dir = runs.find(coordinator, arguments.run)
    print(BEGINNING, flush=True)
    print(export(run_dir, arguments.out or Path(f"{run_dir.name}.zip")))


def tensorboard(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Write a run's events for TensorBoard."""
    run_dir = runs.find(coordinator, arguments.run)
    run_folder.open_scenario(run_dir)  # a run over a vocabulary has curves in its cells
    folder = write_scalars(run_dir)
    print(f"look at it with: tensorboard --logdir {folder}")


def status(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Show sites and runs; `--watch` shows them again and again."""
    if arguments.json:
        print(json.dumps(coordinator_status(coordinator).to_json(), indent=2))
    elif arguments.watch:
        watch(coordinator)
    else:
        print(status_text(coordinator_status(coordinator)))
