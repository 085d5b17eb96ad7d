"""`--check` against real TLS servers on loopback and real scans."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from cryptography import x509

from agi_core.config.schema import Task
from agi_core.errors import ConfigError
from agi_core.privacy import ledger
from agi_core.privacy.accounting import Steps
from agi_core.privacy.ledger import Budget
from agi_core.signatures import public_line
from client.check.connection import check_connection, clock_row
from client.check.preflight import check_scenarios, preflight
from client.check.rows import CheckRow, CheckState
from client.process.lock import only_client
from client.site.file import CoordinatorAddress, read_deployed_site
from client.site.keys import make_key
from client.site.opened import open_site
from client.site.policy import Policy
from client.work.site_ledger import open_site_ledger
from tests.support.requests_by_hand import KEY, deployed_site
from tests.support.small_data import write_head, write_ixi
from tests.support.tls_servers import Authority, serving


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "good")


def rows_at(port: int, authority: Authority, *, host: str = "127.0.0.1") -> dict[str, CheckRow]:
    rows = list(check_connection(CoordinatorAddress(f"{host}:{port}", str(authority.ca_path))))
    assert all(row.fix for row in rows if row.state != CheckState.PASSED)
    return {row.what: row for row in rows}


# the connection


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_good_server_passes_everything(authority: Authority, host: str) -> None:
    with serving(authority.server()) as port:
        rows = rows_at(port, authority, host=host)
    names = ["CA file", "proxy", "DNS", "TCP", "TLS", "certificate expiry", "answer", "clock"]
    assert [(row.what, row.state) for row in rows.values()] == [(name, CheckState.PASSED) for name in names]
    assert "199 days" in rows["certificate expiry"].found


@pytest.mark.parametrize(
    ("make", "cause", "step"),
    [
        (lambda ca: ca.server(days=(-200, -1)), "expired", "date"),
        (lambda ca: ca.server(days=(1, 200)), "not valid yet", "clock"),
        (lambda ca: ca.server(names=(x509.DNSName("other.example"),)), "another name", "exact name"),
        (lambda ca: Authority(ca.folder.parent / os.urandom(4).hex()).server(), "not signed by", "ca.crt"),
        (lambda ca: None, "does not speak TLS", "port"),
    ],
    ids=["expired", "not yet valid", "wrong name", "wrong CA", "plaintext"],
)
def test_each_fault_of_tls_has_its_own_sentence(
    authority: Authority, make: Callable[[Authority], ssl.SSLContext | None], cause: str, step: str
) -> None:
    with serving(make(authority)) as port:
        rows = rows_at(port, authority)
    *_, last = rows.values()
    assert (last.what, last.state) == ("TLS", CheckState.FAILED)
    assert cause in last.found
    assert step in last.fix


def test_a_certificate_near_its_end_warns(authority: Authority) -> None:
    with serving(authority.server(days=(-200, 20))) as port:
        row = rows_at(port, authority)["certificate expiry"]
    assert row.state == CheckState.WARNING
    assert "19 days" in row.found


@pytest.mark.parametrize(
    ("server_clock_s", "state", "cause"),
    [
        (-60.0, CheckState.FAILED, "ahead"),  # this machine is a minute ahead
        (0.0, CheckState.PASSED, "within"),
        (90.0, CheckState.WARNING, "behind"),
        (400.0, CheckState.FAILED, "behind"),
    ],
)
def test_clocks_are_compared(authority: Authority, server_clock_s: float, state: str, cause: str) -> None:
    with serving(authority.server(), clock_s=server_clock_s) as port:
        row = rows_at(port, authority)["clock"]
    assert row.state == state
    assert cause in row.found


@pytest.mark.parametrize(
    ("ahead_s", "state"),
    [(4.1, CheckState.FAILED), (3.5, CheckState.WARNING), (-299.0, CheckState.WARNING), (-301.0, CheckState.FAILED)],
)
def test_how_far_clocks_may_be_apart(ahead_s: float, state: str) -> None:
    """Exactly: a busy machine that takes seconds for its answer cannot show this over a connection."""
    row = clock_row(ahead_s)
    assert row.state == state
    assert f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator" in row.found


def test_a_gateway_without_a_superlink_behind_it(authority: Authority) -> None:
    with serving(authority.server(), status=502) as port:
        row = rows_at(port, authority)["answer"]
    assert row.state == CheckState.FAILED
    assert "502" in row.found


def test_nobody_listens(authority: Authority) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, and not listening
        *_, last = rows_at(probe.getsockname()[1], authority).values()
    assert (last.what, last.state) == ("TCP", CheckState.FAILED)
    assert "outbound HTTPS" in last.fix


def test_a_name_that_is_none(authority: Authority) -> None:
    *_, last = rows_at(443, authority, host="no-such-host.invalid").values()
    assert (last.what, last.state) == ("DNS", CheckState.FAILED)


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("hello")
    for name, cause in (("ca.crt", "PEM"), ("missing.crt", "No such file")):
        (row,) = check_connection(CoordinatorAddress("127.0.0.1:1", str(tmp_path / name)))
        assert row.state == CheckState.FAILED
        assert cause in row.found


@pytest.mark.parametrize("url", ["http://user:pa/ss@proxy:3128", "proxy:99999"])
def test_a_proxy_that_cannot_be_read_is_named_without_its_password(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("https_proxy", url)
    row = rows_at(1, authority)["proxy"]
    assert (row.state, row.found) == (CheckState.FAILED, "HTTPS_PROXY cannot be read as http://USER:PASSWORD@HOST:PORT")


def test_a_host_that_no_host_can_be_called(authority: Authority) -> None:
    assert "agi..example.org has no address" in rows_at(1, authority, host="agi..example.org")["DNS"].found


class _Proxy(threading.Thread):
    """A CONNECT proxy for one connection, which notes the request's head; refuses where it is told to."""

    def __init__(self, *, refuse: bool) -> None:
        super().__init__()
        self.refuse, self.head = refuse, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        client, _ = self.listener.accept()
        with self.listener, client:
            while b"\r\n\r\n" not in self.head:
                self.head += client.recv(4096)
            if self.refuse:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            host, port = self.head.split()[1].decode().split(":")
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with socket.create_connection((host, int(port))) as server:
                back = threading.Thread(target=_copy, args=(server, client))
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other end is gone
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_the_way_through_a_proxy(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = _Proxy(refuse=False)
    proxy.start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
    with serving(authority.server()) as port:
        rows = rows_at(port, authority)
    proxy.join()
    assert all(row.state == CheckState.PASSED for row in rows.values())
    assert f"127.0.0.1:{proxy.port} is used" in rows["proxy"].found
    assert "p%40ss" not in str(rows)
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz" in proxy.head  # user:p@ss


def test_a_proxy_that_refuses(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = _Proxy(refuse=True)
    proxy.start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    rows = list(check_connection(CoordinatorAddress("127.0.0.1:443", str(authority.ca_path))))
    proxy.join()
    assert (rows[-1].what, rows[-1].state) == ("proxy", CheckState.FAILED)
    assert "403" in rows[-1].found


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("HTTPS_PROXY", "http://127.0.0.1:1", "NO_PROXY exempts"), ("HTTP_PROXY", "http://127.0.0.1:1", "alone")],
)
def test_a_proxy_that_is_not_used(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(authority.server()) as port:
        rows = rows_at(port, authority)
    assert all(row.state == CheckState.PASSED for row in rows.values())
    assert told in rows["proxy"].found


# the data and the machine


def site_file(folder: Path, *, data_dir: Path, port: int, authority: Authority, minimum: int = 3) -> Path:
    make_key(folder / "key" / "node", site="hospitalA")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        runtime_port = probe.getsockname()[1]
    path = folder / "hospitalA.yaml"
    path.write_text(
        f"site: hospitalA\ndata: {{dir: {data_dir}, layout: ixi}}\ncache_dir: cache\nstate_dir: state\n"
        f"key_file: key/node\ncoordinator: {{address: '127.0.0.1:{port}', ca_file: {authority.ca_path},"
        f" public_key: {public_line(KEY)}}}\n"
        f"device: cpu\nruntime_port: {runtime_port}\npolicy: {{minimum_subjects: {minimum}}}\n"
    )
    return path


def test_a_site_that_is_ready(tmp_path: Path, authority: Authority, ixi_dir: Path) -> None:
    shown: list[CheckRow] = []
    with serving(authority.server()) as port:
        path = site_file(tmp_path, data_dir=ixi_dir, port=port, authority=authority)
        report = preflight(path, scenario=None, on_row=shown.append)
    assert report["ready"], shown
    assert {row.what for row in shown if row.state == CheckState.WARNING} == {"users", "registration"}
    (found,) = [row.found for row in shown if row.what == "own last layer"]
    assert found.startswith("stays here (policy.share_last_layer: false); it is solved from the site's own subjects")
    t1 = {"scans": 12, "median_spacing_mm": [4.0, 4.0, 8.0]}
    t1["voxels"] = dict.fromkeys(("minimum", "median", "maximum"), 40 * 36 * 8)  # type: ignore[assignment]
    modalities = {"T1": t1, "T2": t1, "PD": t1}
    counted = {"subjects": 12, "sessions": 12, "modalities": modalities, "checked": 12}
    assert report["data"] == {**counted, "doubts": [], "left_out": []}
    assert json.loads((tmp_path / "state" / "check.json").read_text()) == report
    assert not list((tmp_path / "cache").rglob("*"))


def test_what_is_spent_of_the_privacy_budgets(
    tmp_path: Path, authority: Authority, ixi_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site_file(tmp_path, data_dir=ixi_dir, port=1, authority=authority)
    budget = (
        "{{subjects: 9, epsilon: {epsilon}, delta: 1.0e-5, ledger: l/{name}.jsonl, ledger_head: {name}.json{more}}}"
    )
    validation = budget.format(name="v", epsilon=2, more=", noise_multiplier: 5, metrics: {psnr_db: [10, 40]}")
    privacy = budget.format(name="t", epsilon=8, more=f", validation: {validation}")
    path.write_text(f"{path.read_text()}privacy: {privacy}\n")

    def budget_rows() -> list[CheckRow]:
        shown: list[CheckRow] = []
        preflight(path, scenario="T1,T2:PD", on_row=shown.append)
        return [row for row in shown if "budget" in row.what]

    site = read_deployed_site(path)
    fresh = budget_rows()
    assert [(row.what, row.state, row.found) for row in fresh] == [
        ("training budget", CheckState.PASSED, "epsilon 0.00 of 8 spent, 8.00 left (delta 1e-05)"),
        ("validation budget", CheckState.PASSED, "epsilon 0.00 of 2 spent, 2.00 left (delta 1e-05)"),
    ]
    assert site.privacy is not None
    subjects = open_site(path).scans(Task(scenario="T1,T2:PD")).subjects
    steps, limit = Steps(1.0, 1.0, 4), Budget(1e9, 1e-5)
    for rules, whose in ((site.privacy, subjects.train), (site.privacy.validation, subjects.validation)):
        assert rules is not None
        with open_site_ledger(site, rules) as opened:
            opened.reserve(subjects.identities(whose), steps, run="r", round=1, request="d", budget=limit)
    training, validating = budget_rows()
    assert (training.state, validating.state) == (CheckState.WARNING, CheckState.WARNING)  # both are spent, and more
    assert "of 2 spent, 0.00 left" in validating.found
    monkeypatch.setattr(ledger, "BUSY_S", 0.0)
    with open_site_ledger(site, site.privacy):  # as the running client does in a round
        busy, still_validating = budget_rows()
    found = f"{site.privacy.ledger} is in use by the running client, so what is left is not known now"
    assert (busy.what, busy.state, busy.found) == ("training budget", CheckState.WARNING, found)
    assert still_validating == validating
    text = path.read_text()
    path.write_text(text.replace("l/t.jsonl", "m/t.jsonl").replace("ledger_head: t.json", "ledger_head: m.json"))
    (failed,) = budget_rows()
    assert (failed.what, failed.state) == ("privacy budget", CheckState.FAILED)
    assert f"which was at {site.privacy.ledger}" in failed.found  # another path is no new budget
    path.write_text(text)
    Path(site.privacy.ledger).write_text("damaged\n")
    (failed,) = budget_rows()
    assert (failed.what, failed.state) == ("privacy budget", CheckState.FAILED)


@pytest.mark.parametrize("closed", ["l", "h"])
def test_a_ledger_that_cannot_be_written(tmp_path: Path, authority: Authority, ixi_dir: Path, closed: str) -> None:
    path = site_file(tmp_path, data_dir=ixi_dir, port=1, authority=authority)
    budget = "{subjects: 9, epsilon: 8, delta: 1.0e-5, ledger: l/a/t.jsonl, ledger_head: h/b/t.json}"
    path.write_text(f"{path.read_text()}privacy: {budget}\n")
    (tmp_path / closed).write_text("")  # no folder; root may write into any
    shown: list[CheckRow] = []
    preflight(path, scenario=None, on_row=shown.append)
    (row,) = [row for row in shown if "budget" in row.what]
    assert (row.state, row.what) == (CheckState.FAILED, "training budget")
    assert f"cannot be written: {tmp_path / closed} does not allow it" in row.found


@pytest.mark.parametrize(
    ("line", "what", "found", "fix"),
    [
        ("cache_gb: 0.0001", "disk", "its quota leaves 0.0 GB. Raise cache_gb", "or raise cache_gb"),
        ("cache_dir: file/cache", "cache", "file does not allow it", "correct cache_dir"),
        ("cache_dir: file", "cache", "file does not allow it", "correct cache_dir"),
    ],
)
def test_a_cache_that_the_first_request_could_not_fill(
    tmp_path: Path, authority: Authority, ixi_dir: Path, line: str, what: str, found: str, fix: str
) -> None:
    path = site_file(tmp_path, data_dir=ixi_dir, port=1, authority=authority)
    text = path.read_text()
    path.write_text(text.replace("cache_dir: cache", line) if "cache_dir" in line else f"{text}{line}\n")
    (tmp_path / "file").write_text("")  # no folder; root may write into any
    shown: list[CheckRow] = []
    preflight(path, scenario=None, on_row=shown.append)
    (row,) = [row for row in shown if row.what == what]
    assert row.state == CheckState.FAILED
    assert found in row.found
    assert fix in row.fix


@pytest.mark.parametrize("installed", [True, False])
def test_scans_that_are_to_be_registered_need_simpleitk(
    tmp_path: Path, authority: Authority, ixi_dir: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if installed:
        pytest.importorskip("SimpleITK")
    else:
        monkeypatch.setitem(sys.modules, "SimpleITK", None)  # what an import finds where it is not installed
    path = site_file(tmp_path, data_dir=ixi_dir, port=1, authority=authority)
    path.write_text(path.read_text().replace("layout: ixi", "layout: ixi, register: rigid"))
    shown: list[CheckRow] = []
    preflight(path, scenario=None, on_row=shown.append)
    (row,) = [row for row in shown if row.what == "register"]
    assert row.state == (CheckState.PASSED if installed else CheckState.FAILED)
    assert "SimpleITK" in row.found


def test_all_broken_scans_are_named(tmp_path: Path, authority: Authority) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 8})

    def scan(number: int, modality: str) -> Path:
        return data_dir / f"IXI-{modality}" / f"IXI{number}-Guys-{1000 + number}-{modality}.nii.gz"

    scan(100, "T1").write_bytes(scan(100, "T1").read_bytes()[:2000])  # truncated
    scan(101, "T2").write_text("hello")
    image = nibabel.load(scan(102, "PD"))
    holes = image.get_fdata()
    holes[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(holes.astype(np.float32), image.affine), scan(102, "PD"))
    flat = np.full(image.shape, 7, np.int16)
    nibabel.save(nibabel.Nifti1Image(flat, image.affine), scan(103, "T1"))
    away = image.affine.copy()
    away[:3, 3] = 5000
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), away), scan(104, "T1"))
    for modality in ("T1", "T2", "PD"):
        shutil.copyfile(scan(105, modality), scan(106, modality))  # one person twice
    scan(107, "PD").unlink()

    shown: list[CheckRow] = []
    path = site_file(tmp_path, data_dir=data_dir, port=1, authority=authority)
    report = preflight(path, scenario="T1,T2:PD", on_row=shown.append)
    assert not report["ready"]
    broken = {row.what: row.found for row in shown if row.what.startswith("scan ")}
    assert {what: word in broken[what] for what, word in _BROKEN.items()} == dict.fromkeys(_BROKEN, True)
    assert len(broken) == len(_BROKEN)
    twice = [row for row in shown if row.what == "duplicates"]
    assert len(twice) == 3
    assert all("IXI105" in row.found and "exclude: [IXI106]" in row.fix for row in twice)
    assert any(
        "left out 1: no PD (first: IXI107 1107)" in row.found for row in shown if row.state == CheckState.WARNING
    )
    assert report["data"]["subjects"] == 2
    assert {"place": "IXI107 1107", "reason": "no PD"} in report["data"]["left_out"]
    assert {row["scans"] for row in report["data"]["modalities"].values()} == {2}  # those of the two
    few = next(row for row in shown if row.what == "number of subjects")
    assert few.state == CheckState.WARNING


def test_doubts_about_headers_are_warnings_with_the_scans_name(tmp_path: Path, authority: Authority) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 4})
    scan = data_dir / "IXI-T1" / "IXI101-Guys-1101-T1.nii.gz"
    image = nibabel.load(scan)
    image.set_sform(np.diag([4.0, 4.0, 11.0, 1.0]), code=2)
    image.set_qform(np.diag([4.0, 4.0, 8.0, 1.0]), code=1)
    nibabel.save(image, scan)
    shown: list[CheckRow] = []
    path = site_file(tmp_path, data_dir=data_dir, port=1, authority=authority)
    report = preflight(path, scenario="T1,T2:PD", on_row=shown.append)
    (row,) = [row for row in shown if row.what.startswith("scan ")]
    assert (row.what, row.state) == ("scan IXI101 T1", CheckState.WARNING)
    assert row.found.startswith(f"{scan}: sform and qform place the scan more than a voxel apart; the sform is used")
    assert report["data"]["subjects"] == 4  # it is used
    (doubted,) = report["data"]["doubts"]
    assert (doubted["subject"], doubted["modality"], doubted["path"]) == ("IXI101", "T1", str(scan))


def test_doubts_about_voxels_and_equal_doubts_are_one_row(tmp_path: Path, authority: Authority) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"Guys": 5})
    for number in (100, 102, 103):
        scan = data_dir / "IXI-T2" / f"IXI{number}-Guys-{1000 + number}-T2.nii.gz"
        image = nibabel.load(scan)
        data = np.asarray(image.dataobj).copy()
        data[20, 18, 4] = 32767
        nibabel.save(nibabel.Nifti1Image(data, image.affine), scan)
    shown: list[CheckRow] = []
    path = site_file(tmp_path, data_dir=data_dir, port=1, authority=authority)
    report = preflight(path, scenario="T1,T2:PD", on_row=shown.append)
    (row,) = [row for row in shown if row.what == "scans" and row.state == CheckState.WARNING]
    assert row.found.startswith("some values lie far from all others, and are not believed, in 3 scans (first: ")
    assert [doubted["subject"] for doubted in report["data"]["doubts"]] == ["IXI100", "IXI102", "IXI103"]


_BROKEN = {
    "scan IXI100 T1": "truncated",
    "scan IXI101 T2": "not a readable NIfTI",
    "scan IXI102 PD": "NaN",
    "scan IXI103 T1": "constant",
    "scan IXI104": "covers 0%",
}


def test_faults_of_the_machine(tmp_path: Path, authority: Authority) -> None:
    path = site_file(tmp_path, data_dir=tmp_path / "nothing", port=1, authority=authority)
    (tmp_path / "key" / "node").chmod(0o644)
    (tmp_path / "state" / "logs").mkdir(parents=True)
    (tmp_path / "state").chmod(0o755)
    (tmp_path / "state" / "logs" / "node.log").write_text("SuperNode ID: 12\n[code: 2004] Failed to activate\n")
    shown: list[CheckRow] = []
    text = path.read_text().replace("device: cpu", "device: cuda:99")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(
            "".join(f"runtime_port: {port}\n" if "runtime_port" in x else f"{x}\n" for x in text.split("\n"))
        )
        preflight(path, scenario=None, on_row=shown.append)
    states = {(row.what, row.state) for row in shown}
    for what in ("scans", "device", "key", "local ports", "TCP", "registration"):
        assert (what, CheckState.FAILED) in states, what
    assert ("state folder", CheckState.WARNING) in states
    mode = next(row for row in shown if row.what == "key" and row.state == CheckState.FAILED)
    assert mode.fix.startswith(f"chmod 600 {tmp_path / 'key' / 'node'}")


def test_the_port_of_the_running_client_is_no_fault(tmp_path: Path, authority: Authority) -> None:
    path = site_file(tmp_path, data_dir=tmp_path, port=1, authority=authority)
    (tmp_path / "state" / "logs").mkdir(parents=True)
    (tmp_path / "state" / "logs" / "node.log").write_text("[code: 2004]\nSuperNode ID: 12\n")
    shown: list[CheckRow] = []
    with only_client(tmp_path / "state"):
        preflight(path, scenario=None, on_row=shown.append)
    port_row = next(row for row in shown if row.what == "local ports")
    assert (port_row.state, "is running" in port_row.found) == (CheckState.PASSED, True)
    assert next(row for row in shown if row.what == "registration").state == CheckState.PASSED


def test_a_scenario_or_site_file_that_cannot_be_read(tmp_path: Path, authority: Authority) -> None:
    path = site_file(tmp_path, data_dir=tmp_path, port=1, authority=authority)
    with pytest.raises(ConfigError, match="scenario"):
        preflight(path, scenario="T1", on_row=lambda _: None)
    with pytest.raises(ConfigError, match="--init"):
        preflight(tmp_path / "missing.yaml", scenario=None, on_row=lambda _: None)


def test_a_head_can_be_read_on_another_grid(tmp_path: Path, authority: Authority) -> None:
    """Modalities of one session may differ in spacing; that is no fault."""
    data_dir = write_ixi(tmp_path / "ixi", {"HH": 3})
    path = data_dir / "IXI-T1" / "IXI100-HH-1100-T1.nii.gz"
    write_head(path, seed=100, contrast=2.0)
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::2], image.affine @ np.diag([2, 1, 1, 1])), path)
    shown: list[CheckRow] = []
    preflight(site_file(tmp_path, data_dir=data_dir, port=1, authority=authority), scenario=None, on_row=shown.append)
    assert [row.found for row in shown if row.what == "scans"] == ["3 of 3 subjects are readable and fit together"]


@pytest.mark.parametrize(
    ("allowed", "scenario", "state", "found"),
    [
        (["T1:T2"], "T1:T2", CheckState.PASSED, "policy.scenarios allows all that this site offers to T1:T2"),
        (["T1:T2"], "T2:T1", CheckState.FAILED, "policy.scenarios allows T1:T2, and not T2:T1"),
        (["T1,T2,PD:any"], "T1,T2:any", CheckState.PASSED, "offers to T1,T2:any"),
        (["T1:T2", "T2:PD"], "T1,T2:any", CheckState.WARNING, "policy.scenarios allows T1:T2 alone of the cells of"),
        (["T1:PD"], "T1,T2:any", CheckState.FAILED, "policy.scenarios allows T1:PD, and not T1,T2:any"),
        (["T1,T2:any"], "T1,T2,PD:any", CheckState.PASSED, "offers to T1,T2,PD:any"),
    ],
)
def test_the_rules_are_compared_with_the_study(
    tmp_path: Path, allowed: list[str], scenario: str, state: CheckState, found: str
) -> None:
    site = read_deployed_site(deployed_site(tmp_path, tmp_path, rules=""))
    data = replace(site.data, modalities=("T1", "T2"))
    (row,) = check_scenarios(replace(site, data=data, policy=Policy(scenarios=allowed)), scenario)
    assert (row.what, row.state) == ("policy.scenarios", state)
    assert found in row.found
    assert not [*check_scenarios(site, scenario)]
