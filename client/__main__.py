"""`python -m client --site hospitalA`: what a hospital engineer types."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from agi_core.errors import ConfigError, RunError
from agi_core.host.command_line import run_command, terminable
from agi_core.host.console import plain_console
from agi_core.host.keys import certificate_fingerprint, fingerprint
from agi_core.layouts import LAYOUTS
from agi_core.names import is_site_name
from agi_core.signatures import read_public_key
from client.border import audit, consent
from client.process.join import join
from client.process.lock import only_client, other_owner
from client.site.file import is_address, read_deployed_site
from client.site.keys import public_key, public_path, replace_key
from client.site.new_site import write_site

NOT_READY = 1
SITES_DIR = Path("sites")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 a check failed, 2 the user's mistake, 130 interrupted,
    143 terminated."""
    arguments = _parser().parse_intermixed_args(argv)
    console = plain_console()
    with terminable():
        return run_command(lambda: _dispatch(arguments, console))


def _dispatch(arguments: argparse.Namespace, console: Console) -> int | None:
    if arguments.settings and arguments.command is not _dry_run:
        raise ConfigError(f"{' '.join(arguments.settings)}: settings are for --dry-run; the coordinator decides them")
    command: Callable[[argparse.Namespace, Path, Console], int | None] = arguments.command
    if arguments.gallery:
        command = _gallery
    site_path = _site_path(arguments)
    if command is not _init:
        _check_user(Path(read_deployed_site(site_path).state_dir))
    return command(arguments, site_path, console)


def _check_user(state_dir: Path) -> None:
    """Raise ConfigError where the state folder is another user's: this one could not read its files, or would make some
    that the other cannot read."""
    if owner := other_owner(state_dir):
        raise ConfigError(
            f"{state_dir} belongs to user {owner}, who runs this site: type sudo -u {owner} {sys.executable} -m client,"
            " then the same options"
        )


# The docstring of each command is its help. The command returns 0 or None when all is well.


def _join(arguments: argparse.Namespace, site_path: Path, console: Console) -> None:
    """join the federation: run node and runner until the user ends it"""
    join(site_path, console)


def _init(arguments: argparse.Namespace, site_path: Path, console: Console) -> None:
    """write a commented site file and make the site's key; prints what to send to the coordinator"""
    coordinator = _public_key(arguments.coordinator_key) if arguments.coordinator_key else None
    key_path = write_site(
        site_path,
        site=arguments.site or site_path.stem,
        data_dir=arguments.data,
        layout=arguments.layout,
        address=arguments.coordinator,
        ca_path=arguments.ca,
        public_key=coordinator,
    )
    how = f"--site-file {site_path}" if arguments.site_file else f"--site {arguments.site}"
    console.print(
        f"wrote {site_path} and the private key {key_path} (it stays here)\n\n{_to_send(key_path)}\n\n"
        f"{_to_compare(coordinator, arguments.ca)}"
        f"Next: {_to_fill_in(arguments)}read {site_path}, then python -m client {how} --check"
    )


def _to_fill_in(arguments: argparse.Namespace) -> str:
    given = {
        "data.dir": arguments.data,
        "coordinator.address": arguments.coordinator,
        "coordinator.ca_file": arguments.ca,
        "coordinator.public_key": arguments.coordinator_key,
    }
    missing = [name for name, value in given.items() if value is None]
    return f"fill in {', '.join(missing)}, " if missing else ""


def _to_compare(coordinator: str | None, ca_path: Path | None) -> str:
    lines = [f"coordinator.pub {fingerprint(coordinator)}\n"] if coordinator else []
    with contextlib.suppress(OSError, ValueError):  # --check says what is wrong with it
        lines += [f"ca.crt SHA256 {certificate_fingerprint(ca_path)}\n"] if ca_path else []
    return f"Compare with the coordinator, by telephone too:\n{''.join(lines)}\n" if lines else ""


def _new_key(arguments: argparse.Namespace, site_path: Path, console: Console) -> None:
    """make a new key, where the old one is lost or known to others; the old one stays beside it"""
    site = read_deployed_site(site_path)
    key_path = Path(site.key_file)
    with only_client(Path(site.state_dir)):
        replace_key(key_path, site=site.site)
    console.print(
        f"{_to_send(key_path)}\n\nThe coordinator types: python -m server unregister {site.site}, then registers the"
        " new key. Until then this site cannot connect."
    )


def _to_send(key_path: Path) -> str:
    public = public_key(key_path)
    return (
        f"Send to the coordinator: the file {public_path(key_path)}, which is\n{public}\n"
        f"Tell by another way, for example by telephone, its fingerprint:\n{fingerprint(public)}"
    )


def _check(arguments: argparse.Namespace, site_path: Path, console: Console) -> int:
    """check site file, every scan, disk, device, key, network, certificate and clock; says how to mend each"""
    from client.check.commands import run_check  # here, because it brings torch and scipy

    return 0 if run_check(site_path, scenario=arguments.scenario, console=console) else NOT_READY


def _dry_run(arguments: argparse.Namespace, site_path: Path, console: Console) -> None:
    """train two steps and evaluate once on the site's scans, without network; prints time and memory"""
    from client.check.commands import run_dry_run  # here, because it brings torch and scipy

    run_dry_run(site_path, scenario=arguments.scenario, settings=arguments.settings, console=console)


def _audit(arguments: argparse.Namespace, site_path: Path, console: Console) -> int:
    """print what left the site and what was refused, message by message, after verifying the chain of rows"""
    state_dir = Path(read_deployed_site(site_path).state_dir)
    try:
        rows = audit.read(state_dir)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_READY
    for line in audit.table(rows):
        console.print(line)
    console.print("The chain is whole. Only who noted its last hash can tell whether rows are missing at the end.")
    return 0


def _studies(arguments: argparse.Namespace, site_path: Path, console: Console) -> None:
    """show the studies that wait for this site (policy.studies: ask), and take part where you type yes"""
    site = read_deployed_site(site_path)
    state_dir, waiting = Path(site.state_dir), 0
    for study in consent.studies(state_dir):
        for line in consent.described(study, site.policy, private=site.privacy is not None):
            console.print(line)
        if study.agreed:
            console.print("  agreed to")
            continue
        match _answer("  take part? Type yes, no to forget it, or Enter for not now: "):
            case "yes":
                consent.agree(state_dir, study)
                console.print("  agreed; tell the coordinator, who asks again when the run is resumed")
            case "no":
                consent.forget(state_dir, study)
                console.print("  forgotten; it is shown again if the coordinator asks again")
            case _:
                waiting += 1
    for path in consent.unreadable(state_dir):
        console.print(f"{path} cannot be read: it is damaged, or of another release; delete it")
    console.print(f"{waiting} studies wait for an answer" if waiting else "no study waits for an answer")


def _gallery(arguments: argparse.Namespace, site_path: Path, console: Console) -> None:
    """write a page with this model's slices of the site's own test subjects; it stays here"""
    from client.work.gallery import gallery  # here, because it brings torch and matplotlib

    site = read_deployed_site(site_path)
    path, own = gallery(site, arguments.gallery)
    has = "and with this site's own last layer" if own else "this site has no last layer of its own for this model"
    console.print(f"wrote {path}: the common model, {has}\nIt shows patients' scans: it stays here.", markup=False)
    if own:
        use = f"python -m agi_core synthesize --model {arguments.gallery} --head {site.state_dir} --help"
        console.print(f"To use it: {use}", markup=False, soft_wrap=True)


def _answer(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:  # nobody is there to answer
        return ""


def _site_path(arguments: argparse.Namespace) -> Path:
    path: Path = arguments.site_file or SITES_DIR / f"{arguments.site}.yaml"
    return path


def _site_name(text: str) -> str:
    if not is_site_name(text):
        raise argparse.ArgumentTypeError(f"a site's name has letters, digits, - and _ only, unlike {text!r}")
    return text


def _public_key(path: Path) -> str:
    """The line in the coordinator's file. Raises ConfigError."""
    try:
        line = path.read_text(encoding="utf-8").strip()
        read_public_key(line)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, ConfigError):
        raise ConfigError(f"{path} is not the coordinator's file coordinator.pub; ask the coordinator for it") from None
    return line


def _address(text: str) -> str:
    if not is_address(text):
        raise argparse.ArgumentTypeError(f"write HOST:PORT, for example agi.example.org:443, not {text!r}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="A hospital's part of a federation: trains on the site's own scans, which never leave it.",
        epilog=(
            "The usual order: --init once, send node.pub to the coordinator, read the site file (fill in what --init"
            " was not given), --check, --dry-run, then join: python -m client --site hospitalA. Ctrl-C (or SIGTERM)"
            " ends everything."
            " Exit codes: 0 done, 1 a check failed, 2 a mistake that the message explains, 130 interrupted."
        ),
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--site", type=_site_name, help="name of the site; its file is sites/SITE.yaml")
    which.add_argument("--site-file", type=Path, metavar="PATH", help="the site file itself, anywhere")

    action = parser.add_mutually_exclusive_group()
    commands = {
        **{"--init": _init, "--new-key": _new_key, "--check": _check, "--dry-run": _dry_run},
        **{"--studies": _studies, "--audit": _audit},
    }
    for option, command in commands.items():
        action.add_argument(option, dest="command", action="store_const", const=command, help=command.__doc__)
    action.add_argument("--gallery", type=Path, metavar="ZIP", help=_gallery.__doc__)
    parser.set_defaults(command=_join)

    new = parser.add_argument_group("with --init (what is left out gets a placeholder to fill in)")
    new.add_argument("--data", type=Path, metavar="DIR", help="folder of scans")
    new.add_argument("--layout", choices=LAYOUTS, default="ixi", help="how that folder is laid out (%(default)s)")
    new.add_argument("--coordinator", type=_address, metavar="HOST:PORT", help="where the coordinator listens")
    new.add_argument("--ca", type=Path, metavar="FILE", help="the coordinator's certificate authority, ca.crt")
    new.add_argument("--coordinator-key", type=Path, metavar="FILE", help="the coordinator's coordinator.pub")
    tried = parser.add_argument_group("with --check and --dry-run")
    tried.add_argument(
        "--scenario",
        metavar="T1,T2:PD",
        help="sources:target that the coordinator announced, or a vocabulary such as T1,T2,PD:any"
        " (default: the usual one of the layout)",
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
