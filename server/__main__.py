"""The coordinator: `python -m server up`, `certs`, `register`, `submit`, `status`, `stop`, `resume`, `release`.

Everything that must survive stands in one folder (`--dir`, default ./coordinator).
"""

import argparse
import json
import signal
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agi_core.errors import RunError
from agi_core.host import atomic
from agi_core.host.command_line import run_command
from agi_core.host.liveness import is_alive
from server import certificates, flower_cli, registry, runs, status, strikes, superlink
from server.coordinator import CoordinatorDir
from server.flower_cli import FlowerRun, Node
from server.tensorboard import write_scalars

HEALTH_PORT = "health-port.txt"  # in the coordinator's folder: where its gRPC health service was started last
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 the user's mistake or a program of Flower's that
    ended by itself, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    coordinator = CoordinatorDir(arguments.dir.resolve())
    return run_command(lambda: arguments.command(coordinator, arguments), place=lambda: coordinator.path)


def up(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> int:
    """Run `flower-superlink` until SIGTERM or Ctrl-C."""
    expiry = certificates.expiry(coordinator.certificates)
    coordinator.path.chmod(0o700)

    def end(number: int, frame: types.FrameType | None) -> None:
        for either in (signal.SIGTERM, signal.SIGINT):  # one is enough, and what follows ends within its time
            signal.signal(either, signal.SIG_IGN)
        raise _Ended

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        host, port = arguments.host, arguments.port
        with superlink.running(coordinator, host=host, port=port, health_port=arguments.health_port) as process:
            atomic.write_text(coordinator.path / HEALTH_PORT, str(arguments.health_port))
            _announce(coordinator, host, port, until=f"{expiry:%Y-%m-%d}")
            if certificates.expires_soon(expiry):
                print("warning: the certificate ends soon; renew it with: python -m server certs --name NAME")
            code = process.wait()
        raise RunError(f"flower-superlink ended by itself (code {code}); see {coordinator.log_path}, then start again")
    except _Ended:
        print("coordinator stopped; runs go on with: python -m server up, then python -m server resume RUN", flush=True)
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ended(BaseException):
    """SIGTERM or Ctrl-C."""


def _announce(coordinator: CoordinatorDir, host: str, port: int, *, until: str) -> None:
    sites = registry.read(coordinator)
    lines = [
        f"coordinator ready on https://{host}:{port} (TLS, registered sites only; certificate until {until})",
        f"  folder   {coordinator.path}",
        f"  log      {coordinator.log_path}",
        f"  sites    {', '.join(sites) or 'none registered yet'}",
    ]
    if host in LOOPBACK:
        lines.append("  exposed  nothing beyond this machine; hospitals come in through nginx (deploy/nginx.conf)")
    else:
        lines.append(
            "  WARNING  whoever reaches this port can run programs here: Flower's control interface has no login."
            " Listen on 127.0.0.1 and let nginx (deploy/nginx.conf) forward /v1/fleet/ only"
        )
    lines.append(f"next: python -m server {'submit' if sites else 'register --name hospitalA hospitalA.pub'}")
    print("\n".join(lines), "\nstop with Ctrl-C", sep="", flush=True)


def certs(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Make the certificate authority (once) and a new server certificate."""
    files = coordinator.certificates
    known = files.ca_path.exists()
    certificates.issue(files, name=arguments.name, ips=arguments.ip)
    end = certificates.expiry(files)
    names = ", ".join([arguments.name, "localhost", "127.0.0.1", *arguments.ip])
    print(f"server certificate for {names}, valid until {end:%Y-%m-%d}: {files.server_path}")
    if known:
        print("the certificate authority is the same as before: nothing changes at the hospitals")
        print("next: restart the coordinator and nginx, which have read the old certificate")
    else:
        print(f"give every hospital {files.ca_path}; keep {files.ca_key_path} secret and back it up")
        print("next: python -m server up")


def register(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Let a hospital in."""
    entry, outcome = registry.register(
        coordinator, name=arguments.name, key_path=arguments.key, subjects=arguments.subjects
    )
    print(f"{arguments.name} {outcome}, key {entry.fingerprint}")
    if outcome == "registered":
        print("next: compare this fingerprint with the hospital by telephone; then it may start its client")


def unregister(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Shut a hospital out."""
    registry.unregister(coordinator, arguments.name)
    print(f"{arguments.name} is shut out")


def release(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Let a site out of quarantine."""
    print(f"{arguments.name} is free again; forgotten:")
    for strike in strikes.release(coordinator.strikes_path, arguments.name):
        print(f"  run {strike['run']}, round {strike['round']}: {strike['reason']}")


def submit(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Start a run."""
    run_dir = runs.submit(coordinator, name=arguments.name, config_path=arguments.config, settings=arguments.settings)
    print(f"run {run_dir.name} started: {run_dir}")
    print("watch it with: python -m server status")


def resume(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Go on with a run."""
    run_dir = runs.resume(coordinator, arguments.run, quorum=arguments.quorum)
    print(f"run {run_dir.name} goes on after its last finished round")
    print("watch it with: python -m server status")


def stop(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Stop a run."""
    run_dir = runs.stop(coordinator, arguments.run)
    print(f"run {run_dir.name} stopped; go on with: python -m server resume {run_dir.name}")


def tensorboard(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Write a run's events for TensorBoard."""
    folder = write_scalars(runs.find(coordinator, arguments.run))
    print(f"look at it with: tensorboard --logdir {folder}")


def show_status(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Show sites and the newest run."""
    current = _status(coordinator)
    if arguments.json:
        print(json.dumps(current, indent=2))
        return
    print(f"coordinator: {_in_words(alive=current['alive'], reachable=current['reachable'])}")
    width = max(map(len, current["sites"]), default=0)
    for name, site in current["sites"].items():
        size = f"  {site['subjects']} subjects" if site["subjects"] else ""
        print(f"  {name:<{width}}  {site['status']:<10}  last seen {site['last_seen'] or 'never'}{size}")
        if site["strikes"]:
            state = "in quarantine; let it out with" if site["strikes"] >= strikes.QUARANTINED_AT else "forget with"
            print(f"  {'':<{width}}  {site['strikes']} refused replies; {state}: python -m server release {name}")
    if not current["sites"]:
        print("  no site is registered yet")
    print(*_run_lines(current["run"]), sep="\n")


def _in_words(*, alive: bool, reachable: bool) -> str:
    if reachable:
        return "running"
    if alive:
        return "alive, but it does not answer; see superlink.log, or stop it and start it again: python -m server up"
    return "not running; start it with: python -m server up"


def _is_alive(coordinator: CoordinatorDir) -> bool:
    path = coordinator.path / HEALTH_PORT
    return path.is_file() and is_alive(int(path.read_text()))


def _status(coordinator: CoordinatorDir) -> dict[str, Any]:
    entries, struck = registry.read(coordinator), strikes.read(coordinator.strikes_path)
    run_dir = runs.newest(coordinator)
    run = status.run_status(run_dir) if run_dir is not None else None
    nodes: Mapping[int, Node] = {}
    reachable = True
    try:
        nodes = flower_cli.nodes(coordinator)
        if run is not None and run_dir is not None and run["state"] == "interrupted":
            known = runs.flower_status(coordinator, run_dir) or FlowerRun("finished", "")
            run |= {"reason": known.reason} if known.is_finished else {"state": "starting"}
    except RunError:
        reachable = False
    unseen, sites = Node("not registered" if reachable else "unknown", None), {}
    for name, entry in entries.items():
        node = nodes.get(entry.node_id or 0, unseen)
        sites[name] = {
            "status": node.status,
            "last_seen": node.last_seen,
            "subjects": entry.subjects,
            "strikes": len(struck.get(name, [])),
        }
    return {"alive": _is_alive(coordinator), "reachable": reachable, "sites": sites, "run": run}


def _run_lines(run: Mapping[str, Any] | None) -> list[str]:
    if run is None:
        return ["no run yet; start one with: python -m server submit"]
    psnr_db = run["validation_psnr_db"]
    score = f", validation {psnr_db:.2f} dB" if psnr_db is not None else ""
    lines = [f"run {run['name']}: {run['state']}, round {run['round']}/{run['rounds']}{score}"]
    doing = f" ({run['action']})" if "action" in run else ""
    for heading, key in (
        ("waiting for", "waiting_for"),
        ("answered", "answered"),
        ("failed", "failed"),
        ("refused", "refused"),
    ):
        if run[key]:
            lines.append(f"  {heading}{doing if key == 'waiting_for' else ''}: {', '.join(run[key])}")
    lines += [f"  sits out: {site}: {reason}" for site, reason in run["sitting_out"].items()]
    if run["suppressed"]:
        lines.append(f"  figures suppressed by the site's policy: {', '.join(run['suppressed'])}")
    if run.get("reason"):
        lines.append(f"  {run['reason']}")
    if run["state"] in ("paused", "interrupted"):
        lines.append(f"  go on with: python -m server resume {run['name']}")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server", description="The coordinator of a federation of hospitals."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dir", type=Path, default=Path("coordinator"), help="its folder (default ./coordinator)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[CoordinatorDir, argparse.Namespace], int | None], purpose: str
    ) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, parents=[shared], help=purpose, description=purpose)
        sub.set_defaults(command=command)
        return sub

    sub = add("certs", certs, "make the certificate authority (once) and a server certificate (again at any time)")
    sub.add_argument("--name", required=True, help="the host name that hospitals connect to")
    sub.add_argument("--ip", action="append", default=[], help="an IP address that hospitals connect to")
    sub = add("up", up, "start the coordinator and keep it running until Ctrl-C")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    sub.add_argument("--port", type=int, default=8000, help="(default 8000)")
    sub.add_argument("--health-port", type=int, default=8001, help="gRPC liveness service on loopback (default 8001)")
    sub = add("register", register, "let a hospital in")
    sub.add_argument("--name", required=True, help="its name in the federation")
    sub.add_argument("key", type=Path, metavar="KEY.pub", help="the public key that it sent")
    sub.add_argument("--subjects", type=int, help="how many subjects it has agreed to train on")
    sub = add("unregister", unregister, "shut a hospital out")
    sub.add_argument("name")
    sub = add("release", release, "let a site out of quarantine and forget its refused replies")
    sub.add_argument("name")
    sub = add("submit", submit, "start a run with all registered sites, or those of federation.sites")
    sub.add_argument("--config", type=Path, help="YAML file of settings")
    sub.add_argument("--name", help="of the run (default: date and time)")
    sub.add_argument("settings", nargs="*", metavar="key=value", help="any setting, for example rounds=10")
    sub = add("status", show_status, "show sites and the newest run")
    sub.add_argument("--json", action="store_true", help="for programs")
    sub = add("stop", stop, "stop a run; it can be resumed")
    sub.add_argument("run", nargs="?", help="(default: the newest)")
    sub = add("resume", resume, "go on with a run after its last finished round")
    sub.add_argument("run")
    sub.add_argument("--quorum", type=int, help="answers that a round needs from now on")
    sub = add("tensorboard", tensorboard, "write a run's figures for TensorBoard")
    sub.add_argument("run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
