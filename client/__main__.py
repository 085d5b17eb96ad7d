"""`python -m client --site hospitalA`: what a hospital engineer types."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

import agi_core
from agi_core.config.load import load_config
from agi_core.errors import ConfigError, RunError
from agi_core.host import atomic
from agi_core.host.command_line import run_command
from agi_core.host.flower_environment import flower_environment
from agi_core.host.keys import fingerprint
from agi_core.layouts import LayoutName
from agi_core.protocol import ALLOWED_METRICS
from agi_core.run import progress
from client.border import audit
from client.border.egress import DECIMALS
from client.process.child import Program
from client.process.lock import only_client
from client.process.supervisor import supervise
from client.site.file import DeployedSite, read_deployed_site
from client.site.keys import check_owner, public_key, public_path, write_private

NOT_READY = 1
SITES_DIR = Path("sites")
SECRET_NAME = "runtime.secret"  # noqa: S105  a file name
STATUS_NAME = "status.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 a check failed, 2 the user's mistake, 130 interrupted."""
    arguments = _parser().parse_intermixed_args(argv)
    console = Console(soft_wrap=True, highlight=False)
    return run_command(lambda: _dispatch(arguments, console))


def _dispatch(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.settings and arguments.command is not _dry_run:
        raise ConfigError(f"{' '.join(arguments.settings)}: settings are for --dry-run; the coordinator decides them")
    command: Callable[[argparse.Namespace, Path, Console], int] = arguments.command
    return command(arguments, _site_path(arguments), console)


def _join(arguments: argparse.Namespace, site_path: Path, console: Console) -> int:
    """Join the federation: run node and runner until the user ends it."""
    site = read_deployed_site(site_path)
    state_dir, public = Path(site.state_dir), public_key(Path(site.key_file))
    check_owner(Path(site.key_file), site=site.site)
    if not Path(site.coordinator.ca_file).is_file():
        raise ConfigError(
            f"{site_path}: coordinator.ca_file {site.coordinator.ca_file} is not there; copy ca.crt to it"
        )
    from client.process.terminal import Terminal

    with only_client(state_dir):
        console.print(announcement(site, public), markup=False)
        secret_path = state_dir / SECRET_NAME
        with atomic.replacing(secret_path) as temporary_path:
            write_private(temporary_path, os.urandom(32).hex().encode())
        (state_dir / STATUS_NAME).unlink(missing_ok=True)
        terminal = Terminal(
            console, site=site.site, address=site.coordinator.address, status_path=state_dir / STATUS_NAME
        )
        with terminal.showing():
            supervise(
                programs(site, site_path=site_path, secret_path=secret_path),
                state_dir=state_dir,
                environment=environment(state_dir),
                listener=terminal.hear,
            )
    console.print("stopped: node and runner have ended", markup=False)
    return 0


def install_dir() -> Path:
    """Where this program's packages are.

    Raises:
        ConfigError: `client` and `agi_core` are not of one installation.
    """
    ours, science = Path(__file__).resolve().parents[1], Path(agi_core.__file__).resolve().parents[1]
    if ours != science:
        raise ConfigError(
            f"client comes from {ours} and agi_core from {science}; install one release, and start it from one folder"
        )
    return ours


def announcement(site: DeployedSite, public: str) -> str:
    """What the site is about to do: what leaves it, and where it connects."""
    return "\n".join(
        (
            f"agi-fed {version('agi-fed')} from {install_dir()}, site {site.site}, key {fingerprint(public)}",
            "",
            "What leaves this site, to the coordinator alone:",
            "  - the model's weights after each round of training here",
            "  - the number of training (or scored) subjects",
            f"  - means over the site's validation or test subjects, rounded to {DECIMALS} decimals, unless the whole",
            f"    site has fewer than {site.policy.minimum_subjects} subjects:",
            *(f"      {line}" for line in _wrapped(site.policy.metrics or sorted(ALLOWED_METRICS))),
            "  - fixed sentences about failures; and what Flower adds: this key's public half, version, times",
            "What never leaves it: scans, file names, subjects, dates, texts of errors.",
            f"What left is in {site.state_dir}/audit.jsonl; --audit prints and verifies it.",
            f"It connects to {site.coordinator.address} only (TLS, checked against {site.coordinator.ca_file}),",
            f"and to itself on 127.0.0.1:{site.runtime_port}. Logs: {site.state_dir}/logs. Ctrl-C ends everything.",
            "",
        )
    )


def programs(site: DeployedSite, *, site_path: Path, secret_path: Path) -> tuple[Program, Program]:
    """The node, Flower's program that talks to the coordinator; and the runner, ours, that reads the scans."""
    node = (
        *(sys.executable, "-m", "client.process.node"),
        *("--superlink", site.coordinator.address, "--root-certificates", site.coordinator.ca_file),
        *("--auth-supernode-private-key", site.key_file, "--node-config", f'site="{site.site}"'),
        *("--isolation", "process", "--host", "127.0.0.1", "--port", str(site.runtime_port)),
        *("--health-server-address", f"127.0.0.1:{site.health_port}"),
        *("--superexec-auth-secret-file", str(secret_path)),
    )
    runner = (
        *(sys.executable, "-m", "client.process.runner"),
        *("--site-file", str(site_path.resolve()), "--secret-file", str(secret_path)),
    )
    return Program("node", node), Program("runner", runner)


def environment(state_dir: Path) -> dict[str, str]:
    """The environment of node and runner. Their logs are read while they run."""
    return flower_environment(state_dir / "flwr") | {"PYTHONUNBUFFERED": "1"}


def _init(arguments: argparse.Namespace, site_path: Path, console: Console) -> int:
    """Write the site file and make the key."""
    from client.site.new_site import write_site

    key_path = write_site(
        site_path,
        site=arguments.site or site_path.stem,
        data_dir=arguments.data,
        layout=arguments.layout,
        address=arguments.coordinator,
        ca_path=arguments.ca,
    )
    public = public_key(key_path)
    how = f"--site-file {site_path}" if arguments.site_file else f"--site {arguments.site}"
    console.print(
        f"wrote {site_path} and the private key {key_path} (it stays here)\n\n"
        f"Send to the coordinator: the file {public_path(key_path)}, which is\n{public}\n"
        f"Tell by another way, for example by telephone, its fingerprint:\n{fingerprint(public)}\n\n"
        f"Next: fill in {site_path}, then python -m client {how} --check",
        markup=False,
    )
    return 0


def _check(arguments: argparse.Namespace, site_path: Path, console: Console) -> int:
    """Print the table and the data summary; 0 when nothing failed."""
    from client.check.preflight import REPORT_NAME, preflight  # here, because they bring torch and scipy
    from client.check.rows import Row

    def show(row: Row) -> None:
        console.print(f"{row.state:<8} {row.what:<20} {row.found}", markup=False)
        if row.fix:
            console.print(f"{'':<29} -> {row.fix}", markup=False)

    with console.status("checking") as status:

        def follow(news: progress.Step | progress.Event) -> None:
            if isinstance(news, progress.Step):
                status.update(f"{news.phase} {news.step}/{news.steps}")

        with progress.listening(follow):
            report = preflight(site_path, scenario=arguments.scenario, on_row=show)
    data = report["data"]
    if data:
        console.print(f"\nThis site's data, {data['subjects']} subjects, {data['sessions']} sessions (stays here):")
        for modality, row in data["modalities"].items():
            spacing = " x ".join(f"{mm:.2f}" for mm in row["median_spacing_mm"])
            voxels = row["voxels"]
            console.print(
                f"  {modality:<6} {row['scans']} scans, median spacing {spacing} mm,"
                f" {voxels['minimum']:,} to {voxels['maximum']:,} voxels",
                markup=False,
            )
    states = [row["state"] for row in report["rows"]]
    verdict = "ready to join" if report["ready"] else "not ready: mend what failed, then check again"
    console.print(
        f"\n{len(states)} checks: {states.count('FAILED')} failed, {states.count('warning')} warnings; {verdict}."
        f" Kept in {REPORT_NAME} of the state folder."
    )
    return 0 if report["ready"] else NOT_READY


def _dry_run(arguments: argparse.Namespace, site_path: Path, console: Console) -> int:
    """Train two steps and evaluate, and print time and memory of each."""
    site = read_deployed_site(site_path)
    overrides = {"scenario": arguments.scenario, "data.layout": site.data.layout}
    task = load_config(None, overrides=overrides, assignments=arguments.settings).task
    from client.check.dry_run import dry_run

    model = " ".join(arguments.settings) or "default model"
    console.print(f"{site.site}: dry run of {task.scenario}, {model}, no network", markup=False)
    step_s = 0.0
    for measured in dry_run(site_path, task):
        console.print(f"  {measured.what:<48} {measured.seconds:8.2f} s  peak {measured.peak_bytes / 1e9:6.2f} GB")
        step_s = measured.seconds if "next training step" in measured.what else step_s
    steps = task.training.local_steps
    console.print(f"At this pace a round of {steps} steps trains for {steps * step_s:.0f} s. Nothing left this site.")
    return 0


def _audit(arguments: argparse.Namespace, site_path: Path, console: Console) -> int:
    """Verify the audit and print it; 0 when its chain is whole."""
    state_dir = Path(read_deployed_site(site_path).state_dir)
    try:
        rows = audit.read(state_dir)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_READY
    for line in audit.table(rows):
        console.print(line, markup=False)
    console.print("The chain is whole. Only who noted its last hash can tell whether rows are missing at the end.")
    return 0


def _wrapped(names: Sequence[str]) -> list[str]:
    return [", ".join(names[start : start + 5]) for start in range(0, len(names), 5)]


def _site_path(arguments: argparse.Namespace) -> Path:
    path: Path = arguments.site_file or SITES_DIR / f"{arguments.site}.yaml"
    return path


def _site_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"a site's name has letters, digits, - and _ only, unlike {text!r}")
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", text):
        raise argparse.ArgumentTypeError(f"write HOST:PORT, for example agi.example.org:443, not {text!r}")
    return text


def _parser() -> argparse.ArgumentParser:
    layouts: tuple[LayoutName, ...] = ("ixi", "brats", "bids")
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="A hospital's part of a federation: trains on the site's own scans, which never leave it.",
        epilog=(
            "The usual order: --init once, send the public key to the coordinator, fill in the site file, --check,"
            " --dry-run, then join: python -m client --site hospitalA. Ctrl-C (or SIGTERM) ends everything."
            " Exit codes: 0 done, 1 a check failed, 2 a mistake that the message explains, 130 interrupted."
        ),
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--site", type=_site_name, help="name of the site; its file is sites/NAME.yaml")
    which.add_argument("--site-file", type=Path, metavar="PATH", help="the site file itself, anywhere")

    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--init",
        dest="command",
        action="store_const",
        const=_init,
        help="write a commented site file and make the site's key; prints what to send to the coordinator",
    )
    action.add_argument(
        "--check",
        dest="command",
        action="store_const",
        const=_check,
        help="check site file, every scan, disk, device, key, network, certificate and clock; says how to mend each",
    )
    action.add_argument(
        "--dry-run",
        dest="command",
        action="store_const",
        const=_dry_run,
        help="train two steps and evaluate once on the site's scans, without network; prints time and memory",
    )
    action.add_argument(
        "--audit",
        dest="command",
        action="store_const",
        const=_audit,
        help="print what left the site and what was refused, message by message, after verifying the chain of rows",
    )
    parser.set_defaults(command=_join)

    new = parser.add_argument_group("with --init (what is left out gets a placeholder to fill in)")
    new.add_argument("--data", type=Path, metavar="DIR", help="folder of scans")
    new.add_argument("--layout", choices=layouts, default="ixi", help="how that folder is laid out (%(default)s)")
    new.add_argument("--coordinator", type=_address, metavar="HOST:PORT", help="where the coordinator listens")
    new.add_argument("--ca", type=Path, metavar="FILE", help="the coordinator's certificate authority, ca.crt")
    tried = parser.add_argument_group("with --check and --dry-run")
    tried.add_argument(
        "--scenario",
        metavar="T1,T2:PD",
        help="sources:target that the coordinator announced (default: the usual one of the layout)",
    )
    tried.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="with --dry-run: settings that the coordinator announced, for example model.dims=3",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
