"""No program of ours opens a socket to anything but the coordinator: a whole run of one hospital, all of whose system
calls that name an address are recorded. Names are asked for by such calls too, so a look-up elsewhere would show."""

import ipaddress
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.federation_of_processes import SMALL, Federation, Run, running
from tests.support.real_processes import Program
from tests.support.small_data import write_ixi

STRACE = shutil.which("strace")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(STRACE is None, reason="strace is not installed: apt-get install strace"),
]
ADDRESS = re.compile(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)|sin6_port=htons\((\d+)\).*?"([^"]+)"')


def recording(path: Path) -> list[str | Path]:
    """To be put before a command: note what it and all its descendants connect or send to. The command stays our own
    child, so that signals reach it."""
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    return [STRACE or "strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", path]


def addresses(record: str) -> set[tuple[str, int]]:
    """All (address, port) of IPv4 and IPv6 in a record."""
    return {(four or six, int(port or port6)) for port, four, port6, six in ADDRESS.findall(record)}


def test_a_record_shows_where_a_program_wants_to_go(tmp_path: Path) -> None:
    """Or the test below would prove nothing."""
    code = (
        "import socket\n"
        "for family, address in ((socket.AF_INET, '192.0.2.1'), (socket.AF_INET6, '2001:db8::1')):\n"
        "    with socket.socket(family, socket.SOCK_DGRAM) as probe:\n"
        "        try: probe.sendto(b'', (address, 53))\n"
        "        except OSError: pass\n"
    )
    subprocess.run([*recording(tmp_path / "record"), sys.executable, "-c", code], check=True)
    assert addresses((tmp_path / "record").read_text()) == {("192.0.2.1", 53), ("2001:db8::1", 53)}


def test_nobody_speaks_to_anybody_but_the_coordinator(tmp_path: Path) -> None:
    records = {name: tmp_path / f"{name}.strace" for name in ("up", "hospitalA", "submit")}
    federation = Federation(tmp_path, under=recording(records["up"]))
    with running(federation):
        hospital = federation.join(
            "hospitalA", write_ixi(tmp_path / "scans", {"Guys": 5}), under=recording(records["hospitalA"])
        )
        federation.until_ready()
        submit = Program(
            tmp_path / "submit",
            "server",
            *("submit", "--dir", federation.dir, "--name", "observed", "rounds=1", *SMALL),
            under=recording(records["submit"]),
        )
        submit.start()
        assert submit.process.wait(120) == 0, submit.printed()
        Run(federation.dir / "runs" / "observed").until_state("finished")
    for name, path in records.items():
        spoken = addresses(path.read_text())
        assert federation.port in {port for _, port in spoken}, name
        assert {address for address, _ in spoken if not ipaddress.ip_address(address).is_loopback} == set(), name
    # the hospital: the coordinator, and between node and runner
    ports = {port for _, port in addresses(records["hospitalA"].read_text())}
    assert ports - {0} == {federation.port, hospital.site.runtime_port}
