"""`python -m server up`: the coordinator runs until SIGTERM or Ctrl-C."""

import argparse
import contextlib
import signal
import types
from collections.abc import Iterator
from functools import partial

from agi_core.errors import AgiError, RunError
from agi_core.host import atomic
from server import certificates, notify, registry, runs, superlink
from server.coordinator import CoordinatorDir

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def up(coordinator: CoordinatorDir, arguments: argparse.Namespace) -> None:
    """Run `flower-superlink` until SIGTERM or Ctrl-C, or until any of its programs ends: a service starts all again.

    Raises:
        ConfigError: there is no usable certificate. RunError: the SuperLink cannot be started, or a program of it ended
            by itself.
    """
    expiry = certificates.expiry(coordinator.certificates)
    coordinator.path.chmod(0o700)
    host, port, health_port = arguments.host, arguments.port, arguments.health_port
    running = superlink.running(coordinator, host=host, port=port, health_port=health_port)
    try:
        with _ended_by_signals(), running:
            atomic.write_text(coordinator.health_port_path, str(health_port))
            watched = superlink.programs()  # before runs go on, whose processes end when they are done
            _announce(coordinator, host, port, until=f"{expiry:%Y-%m-%d}")
            if certificates.expires_soon(expiry):
                print("warning: the certificate ends soon; renew it with: python -m server certs --name NAME")
            if arguments.notify:
                notify.watching(coordinator, partial(notify.tell, arguments.notify))
            if arguments.resume:
                _resume_interrupted(coordinator)
            ended = superlink.wait_for_an_end(coordinator, watched)
    except _Ended:
        print("coordinator stopped; runs go on with: python -m server up, then python -m server resume RUN", flush=True)
    else:
        raise RunError(f"{ended} ended by itself, so all was stopped; see {coordinator.log_path}, then start again")


def _resume_interrupted(coordinator: CoordinatorDir) -> None:
    """Go on with the runs that neither paused nor were stopped by hand: the coordinator went down under them."""
    for run_dir in runs.interrupted(coordinator):
        try:
            runs.resume(coordinator, run_dir.name, quorum=None)
            print(f"run {run_dir.name} goes on after its last finished round", flush=True)
        except AgiError as error:
            print(f"warning: run {run_dir.name} does not go on by itself: {error}", flush=True)


class _Ended(BaseException):
    """SIGTERM or Ctrl-C."""


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C raise _Ended in the block. One is enough: what the block then still does ends within its
    time, and further signals are ignored."""

    def end(number: int, frame: types.FrameType | None) -> None:
        for either in SIGNALS:
            signal.signal(either, signal.SIG_IGN)
        raise _Ended

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    then = "submit" if sites else "register --name hospitalA hospitalA.pub --subjects N"
    lines.append(f"next: python -m server {then}")
    print("\n".join(lines), "\nstop with Ctrl-C", sep="", flush=True)
