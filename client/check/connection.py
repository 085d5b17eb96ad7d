"""The way to the coordinator, step by step: name, proxy, port, TLS, certificate, clock.

The check stops at the first step that fails, since the later ones need it. It sends nothing but one empty request,
without the site's key or name.
"""

import base64
import contextlib
import email.utils
import http.client
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from agi_core.errors import ConfigError
from agi_core.host.keys import certificate_fingerprint
from client.check.rows import CheckRow, failed, passed, warning
from client.process.flower_errors import explain
from client.site.file import CoordinatorAddress
from client.site.keys import trusted_authority

TIMEOUT_S = 10.0
WARN_EXPIRY_DAYS = 30
MAX_AHEAD_S, WARN_AHEAD_S = 4.0, 2.0  # flwr 1.41 refuses a signature from more than 5 s in the future
MAX_BEHIND_S, WARN_BEHIND_S = 300.0, 60.0  # and one that is older than 305 s


def check_connection(coordinator: CoordinatorAddress) -> Iterator[CheckRow]:
    """Rows about the connection to the coordinator, as the node would make it: through the environment's proxy."""
    host, port = _host_and_port(coordinator.address)
    context, row = _trust(Path(coordinator.ca_file))
    yield row
    if context is None:
        return

    try:
        proxy, found = _proxy(host)
    except ValueError:  # its text may show a password
        yield failed(
            "proxy",
            "HTTPS_PROXY cannot be read as http://USER:PASSWORD@HOST:PORT",
            fix="write / as %2F, : as %3A and @ as %40 in user and password, and a port from 1 to 65535",
        )
        return
    yield passed("proxy", found)
    next_host, next_port = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(next_host, next_port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:  # the latter: no name of a host can be so
        yield failed(
            "DNS",
            f"{next_host} has no address ({getattr(error, 'strerror', None) or 'it is no name of a host'})",
            fix="check the spelling in coordinator.address; if it is right, ask the network team about this name",
        )
        return
    yield passed("DNS", f"{next_host} is {', '.join(sorted(addresses))}")

    connection = http.client.HTTPConnection(next_host, next_port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        if proxy:
            connection.set_tunnel(host, port, headers=_proxy_login(proxy))
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            yield _unreachable(error, f"{next_host}:{next_port}")
            return
        yield passed(
            "TCP", f"{next_host}:{next_port} answers" + (f", and lets through to {host}:{port}" if proxy else "")
        )

        try:
            tls = context.wrap_socket(connection.sock, server_hostname=host)
        except OSError as error:  # ssl.SSLError is one
            yield _tls_failure(error)
            return
        connection.sock = tls
        yield passed("TLS", f"{tls.version()}; the certificate is for {host} and signed by {coordinator.ca_file}")
        yield _expiry(tls, Path(coordinator.ca_file))
        yield from _answer(connection)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _trust(ca_path: Path) -> tuple[ssl.SSLContext | None, CheckRow]:
    what, fix = "CA file", "get ca.crt from the coordinator, by a way you trust, and name it in coordinator.ca_file"
    try:
        context = trusted_authority(ca_path)
    except ConfigError as error:
        return None, failed(what, str(error), fix=fix)
    return context, passed(what, f"{ca_path}, SHA256 {certificate_fingerprint(ca_path)}")


def _proxy(host: str) -> tuple[urllib.parse.SplitResult | None, str]:
    """The proxy that the environment names for HTTPS to this host, and the same in words."""
    proxies = urllib.request.getproxies()
    url = proxies.get("https") or proxies.get("all")
    if url and not urllib.request.proxy_bypass(host):
        proxy = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        return proxy, f"HTTPS_PROXY: {proxy.hostname}:{proxy.port or 80} is used"
    if proxies.get("https"):
        return None, f"HTTPS_PROXY is set, but NO_PROXY exempts {host}: none is used"
    if proxies.get("http"):
        return None, "HTTP_PROXY alone is set, which HTTPS does not use: none is used"
    return None, "none: HTTPS_PROXY is not set"


def _proxy_login(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    login = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _unreachable(error: Exception, place: str) -> CheckRow:
    advice = explain(str(error))
    if "Tunnel" in str(error) and advice is not None:
        return failed("proxy", f"{advice.sentence} {place} said: {error}", fix=advice.next_step)
    cause = "no answer within 10 s" if isinstance(error, TimeoutError) else str(error)
    return failed(
        "TCP",
        f"{place} cannot be reached ({cause})",
        fix="check host and port; ask the network team to allow outbound HTTPS there, and the coordinator whether it is"
        " up",
    )


def _tls_failure(error: OSError) -> CheckRow:
    advice = explain("handshake timed out" if isinstance(error, TimeoutError) else str(error))
    if advice is None:
        return failed("TLS", f"the handshake failed: {error}", fix="show this line to the coordinator")
    return failed("TLS", advice.sentence, fix=advice.next_step)


def _expiry(tls: ssl.SSLSocket, ca_path: Path) -> CheckRow:
    server = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"").not_valid_after_utc
    authority = min(ca.not_valid_after_utc for ca in x509.load_pem_x509_certificates(ca_path.read_bytes()))
    whose, end = min((("the server's certificate", server), ("the CA", authority)), key=lambda pair: pair[1])
    days = (end - datetime.now(UTC)).days
    found = f"{whose} is valid until {end:%Y-%m-%d}, {days} days from now"
    if days < WARN_EXPIRY_DAYS:
        return warning("certificate expiry", found, fix="ask the coordinator to renew it before that day")
    return passed("certificate expiry", found)


def _answer(connection: http.client.HTTPConnection) -> Iterator[CheckRow]:
    """Who answers, and how far the clocks are apart. The answer's Date has whole seconds, so the difference is right to
    about a second."""
    before = time.time()
    try:
        connection.request("GET", "/v1/fleet/")
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException) as error:
        yield failed(
            "answer", f"no HTTP answer ({error})", fix="ask the coordinator whether its gateway and SuperLink run"
        )
        return
    now = (before + time.time()) / 2
    if response.status in (502, 503, 504):
        yield failed(
            "answer",
            f"the gateway answers {response.status}: the SuperLink behind it does not run",
            fix="ask the coordinator to start it",
        )
    else:
        yield passed("answer", f"an HTTP server answers ({response.status} to an empty request, as it should)")
    try:
        yield clock_row(now - (email.utils.parsedate_to_datetime(response.headers["Date"]).timestamp() + 0.5))
    except (TypeError, ValueError):  # no Date, or none that can be read
        yield clock_row(None)


def clock_row(ahead_s: float | None) -> CheckRow:
    """The row of clocks that are so far apart; None = not known."""
    fix = "switch time synchronisation on: timedatectl set-ntp true, or chronyc makestep"
    if ahead_s is None:
        return warning("clock", "the answer has no readable Date, so the clocks could not be compared", fix=fix)
    found = f"this machine is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator"
    if ahead_s > MAX_AHEAD_S or ahead_s < -MAX_BEHIND_S:
        return failed("clock", f"{found}; more than 5 s ahead or 300 s behind is refused", fix=fix)
    if ahead_s > WARN_AHEAD_S or ahead_s < -WARN_BEHIND_S:
        return warning("clock", found, fix=fix)
    return passed(
        "clock", f"within {WARN_AHEAD_S:.0f} s of the coordinator's" if abs(ahead_s) < WARN_AHEAD_S else found
    )
