"""Joining a federation: say what will leave the site, then keep node and runner alive until the user ends them."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.status import Status

import agi_core
import client
from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.host.flower_environment import flower_environment
from agi_core.host.keys import fingerprint
from agi_core.layouts import LAYOUTS
from agi_core.protocol import ALLOWED_METRICS
from agi_core.run import progress
from agi_core.signatures import read_public_key
from client.border.egress import DECIMALS
from client.process import status
from client.process.child import Program
from client.process.lock import only_client
from client.process.supervisor import supervise
from client.process.terminal import Terminal
from client.site.file import DeployedSite, read_deployed_site
from client.site.keys import check_owner, public_key, trusted_authority, write_private
from client.site.policy import LAST_LAYER_IS

SECRET_NAME = "runtime.secret"  # noqa: S105  a file name


def join(site_path: Path, console: Console) -> None:
    """Run node and runner until SIGTERM, SIGHUP or Ctrl-C.

    Raises:
        ConfigError: the site file, the key, or the coordinator's certificate or key cannot be used.
        RunError: a client of this site runs already, or a program cannot be started.
    """
    site = read_deployed_site(site_path)
    key_path, state_dir = Path(site.key_file), Path(site.state_dir)
    public = public_key(key_path)
    check_owner(key_path, site=site.site)
    try:
        trusted_authority(Path(site.coordinator.ca_file))
    except ConfigError as error:
        raise ConfigError(f"{site_path}: coordinator.ca_file {error}; copy the coordinator's ca.crt to it") from None
    read_public_key(site.coordinator.public_key)
    with only_client(state_dir):
        console.print(announcement(site, public))
        _look_at_scans(site, console)
        secret_path, status_path = _make_secret(state_dir), state_dir / status.NAME
        status_path.unlink(missing_ok=True)
        terminal = Terminal(console, site=site.site, address=site.coordinator.address, status_path=status_path)
        with terminal.showing():
            supervise(
                programs(site, site_path=site_path, secret_path=secret_path),
                state_dir=state_dir,
                environment=environment(state_dir),
                listener=terminal.hear,
            )
    console.print("stopped: node and runner have ended")


def _look_at_scans(site: DeployedSite, console: Console) -> None:
    from client.process.first_look import look_at_scans  # here, because it brings nibabel and scipy

    for scenario in site.policy.scenarios or [LAYOUTS[site.data.layout].default_scenario]:
        with console.status("looking at the scans") as line:

            def follow(news: progress.News, line: Status = line) -> None:
                if isinstance(news, progress.Step):
                    line.update(f"{news.phase} {news.step}/{news.steps}")

            with progress.listening(follow):
                warning = look_at_scans(site, scenario)
        if warning:
            console.print(f"warning: {warning}\n", markup=False)


STATISTICS_LEAVE = (
    "  - once per run that has a prior (model.prior), with the same minimum: 65 means, for two sources, over the",
    "    voxels of all training subjects (docs/egress.md)",
    "  - once per run that leaves its reference or training.align_target open, with the same minimum: how far each",
    "    source lies from the target",
    "  - at a run's end, with the same minimum and if the figures have calibration_subjects: how large errors on",
    "    validation subjects are; if they have range_subjects: mean and spread of what sources of training subjects",
    "    are like (docs/egress.md)",
)


def announcement(site: DeployedSite, public: str) -> str:
    """What the site is about to do: what leaves it, and where it connects. `public` is the public half of its key."""
    figures = sorted(ALLOWED_METRICS) if site.policy.metrics is None else site.policy.metrics
    return "\n".join(
        (
            f"agi-fed {version('agi-fed')} from {install_dir()}, site {site.site}, key {fingerprint(public)}",
            "",
            "What leaves this site, to the coordinator alone:",
            "  - the model's weights after each round of training here",
            "  - the number of training (or scored) subjects",
            f"  - means over the site's validation or test subjects, rounded to {DECIMALS} decimals, unless the whole",
            f"    site has fewer than {site.policy.minimum_subjects} subjects:",
            *(f"      {line}" for line in _wrapped(figures) or ["none (policy.metrics)"]),
            *([] if site.privacy else STATISTICS_LEAVE),
            *(
                [
                    f"  - at a run's end, the site's own last layer, {LAST_LAYER_IS},",
                    "    and the statistics that a last layer for all sites is solved from",
                ]
                if site.policy.share_last_layer
                else []
            ),
            "  - fixed sentences about failures; and what Flower adds: this key's public half, version, times",
            "What never leaves it: scans, file names, subjects, dates, texts of errors"
            + ("." if site.policy.share_last_layer else ", the site's own last layer."),
            f"What left is in {site.state_dir}/audit.jsonl; --audit prints and verifies it.",
            f"It connects to {site.coordinator.address} only (TLS, checked against {site.coordinator.ca_file}),",
            f"and to itself on 127.0.0.1:{site.runtime_port}. It answers only what is signed with the coordinator's",
            f"key {fingerprint(site.coordinator.public_key)}.",
            f"Logs: {site.state_dir}/logs. Ctrl-C ends everything.",
            "",
        )
    )


def install_dir() -> Path:
    """The folder that this program's packages are in.

    Raises:
        ConfigError: `client` and `agi_core` are not of one installation.
    """
    ours, science = (Path(str(package.__file__)).resolve().parents[1] for package in (client, agi_core))
    if ours != science:
        raise ConfigError(
            f"client comes from {ours} and agi_core from {science}; install one release, and start it from one folder"
        )
    return ours


def programs(site: DeployedSite, *, site_path: Path, secret_path: Path) -> tuple[Program, Program]:
    """The node, which is Flower's and talks to the coordinator; and the runner, which is ours and reads the scans."""
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
    """The environment of node and runner. Their logs are read while they run, so nothing is buffered."""
    return flower_environment(state_dir / "flwr") | {"PYTHONUNBUFFERED": "1"}


def _make_secret(state_dir: Path) -> Path:
    """A new secret that node and runner share, in place of the last one."""
    path = state_dir / SECRET_NAME
    with atomic.replacing(path) as temporary_path:
        write_private(temporary_path, os.urandom(32).hex().encode())
    return path


def _wrapped(names: Sequence[str]) -> list[str]:
    return [", ".join(names[start : start + 5]) for start in range(0, len(names), 5)]
