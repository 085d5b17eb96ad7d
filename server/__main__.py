"""The coordinator: `python -m server up`, `certs`, `register`, `submit`, `status`, `stop`, `resume`, `release`,
`export`.

Everything that must survive stands in one folder (`--dir`, default ./coordinator). What the commands need is imported
when one of them is carried out: `--help` has no use for it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from agi_core.host.command_line import run_command
from server.coordinator import CoordinatorDir

Command = Callable[[CoordinatorDir, argparse.Namespace], None]
UP = "up"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 the user's mistake or a program of Flower's that
    ended by itself, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    coordinator = CoordinatorDir(arguments.dir.resolve())
    return run_command(lambda: _command(arguments.command)(coordinator, arguments), place=lambda: coordinator.path)


def _command(name: str) -> Command:
    module = import_module("server.up" if name == UP else "server.commands")
    command: Command = getattr(module, name.replace("-", "_"))
    return command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server", description="The coordinator of a federation of hospitals."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dir", type=Path, default=Path("coordinator"), help="its folder (default ./coordinator)")
    listed = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, purpose: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = listed.add_parser(name, parents=[shared], help=purpose, description=purpose)
        sub.set_defaults(command=name)
        return sub

    sub = add("certs", "make the certificate authority (once) and a server certificate (again at any time)")
    sub.add_argument("--name", required=True, help="the host name that hospitals connect to")
    sub.add_argument("--ip", action="append", default=[], help="an IP address that hospitals connect to")
    sub = add(UP, "start the coordinator and keep it running until Ctrl-C")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    sub.add_argument("--port", type=int, default=8000, help="(default 8000)")
    sub.add_argument("--health-port", type=int, default=8001, help="gRPC liveness service on loopback (default 8001)")
    sub.add_argument("--resume", action="store_true", help="go on with the runs under which the coordinator went down")
    sub.add_argument(
        "--notify", metavar="COMMAND|URL", help="gets run, state and reason when a run pauses, is interrupted or ends"
    )
    sub = add("register", "let a hospital in")
    sub.add_argument("--name", required=True, help="its name in the federation")
    sub.add_argument("key", type=Path, metavar="KEY.pub", help="the public key that it sent")
    sub.add_argument("--subjects", type=int, help="how many subjects it may count at most; a run needs it")
    sub.add_argument(
        "--modalities", type=lambda text: text.split(","), help="that it offers to runs over a vocabulary: T1,T2"
    )
    sub = add("unregister", "shut a hospital out")
    sub.add_argument("name")
    sub = add("release", "let a site out of quarantine and forget its refused replies")
    sub.add_argument("name")
    sub = add("submit", "start a run with all registered sites, or those of federation.sites")
    sub.add_argument("--config", type=Path, help="YAML file of settings")
    sub.add_argument("--name", help="of the run (default: date and time)")
    sub.add_argument("--from-run", metavar="NAME", help="begin with the last weights of this run, of the same model")
    sub.add_argument("settings", nargs="*", metavar="key=value", help="any setting, for example rounds=10")
    sub = add("status", "show sites and runs")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for programs")
    how.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    sub = add("stop", "stop a run; it can be resumed")
    sub.add_argument("run", nargs="?", help="(default: the newest)")
    sub = add("resume", "go on with a run after its last finished round")
    sub.add_argument("run")
    sub.add_argument("--quorum", type=int, help="answers that a round needs from now on")
    sub = add("add-site", "let one more registered site train in a run that stands still")
    sub.add_argument("run")
    sub.add_argument("site")
    sub = add("export", "write a run's model as one zip for hospitals that use it")
    sub.add_argument("run")
    sub.add_argument("--out", type=Path, help="(default RUN.zip, here)")
    sub = add("tensorboard", "write a run's figures for TensorBoard")
    sub.add_argument("run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
