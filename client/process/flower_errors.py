"""Flower's codes, HTTP states and TLS texts as one sentence and a next step for a hospital engineer.

The texts were seen in flwr 1.41's logs and in Python's ssl errors; its test holds them. The order matters:
Flower prints the general code 305 around the particular cause.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """What is wrong, and what to do next."""

    sentence: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.next_step}"


_SET_CLOCK = (
    "Set the clock (chronyc makestep; timedatectl set-ntp true) and run --check; if the clock is right, ask the"
    " coordinator about the registration."
)
_KNOWN: tuple[tuple[str, Advice], ...] = (
    (
        r"certificate has expired",
        Advice(
            "The coordinator's TLS certificate has expired.",
            "Check this machine's date; if it is right, ask the coordinator to renew the certificate.",
        ),
    ),
    (
        r"certificate is not yet valid",
        Advice(
            "The coordinator's TLS certificate is not valid yet.",
            "This machine's clock is probably behind: set it (chronyc makestep), then try again.",
        ),
    ),
    (
        r"(Hostname|IP address) mismatch|certificate is not valid for",
        Advice(
            "The TLS certificate is for another name than the one in coordinator.address.",
            "Use the exact name that the coordinator gave; if it is that name, ask for a certificate that holds it.",
        ),
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        Advice(
            "The TLS certificate was not signed by the authority in coordinator.ca_file.",
            "Get the coordinator's current ca.crt again, by a way you trust; if it is current, something between here"
            " and the coordinator opens TLS: ask the network team to exempt this address.",
        ),
    ),
    (
        r"WRONG_VERSION_NUMBER|HTTP_REQUEST|RECORD_LAYER_FAILURE",
        Advice(
            "The other side does not speak TLS on this port.",
            "Check the port in coordinator.address; if it is right, ask the coordinator to switch TLS on.",
        ),
    ),
    (
        r"UNEXPECTED_EOF|EOF occurred|handshake.*timed out|Connection reset",
        Advice(
            "The connection was cut during the TLS handshake.",
            "A firewall probably closes it: ask the network team to allow outbound HTTPS to coordinator.address.",
        ),
    ),
    (
        r"\[code: 2001\]",
        Advice(
            "The coordinator wants a key and this node showed none (2001).",
            "Check key_file in the site file; python -m client --site NAME --check tests it.",
        ),
    ),
    (
        r"\[code: 2004\]",
        Advice(
            "The coordinator refused this site's key (2004): it is not registered, or a node with this key is held as"
            " online: the one that ended less than a minute ago, or another machine's.",
            "It is tried again by itself; after two minutes ask the coordinator to register this site's public key"
            " (the .pub file beside key_file).",
        ),
    ),
    (
        r"\[code: 1001\]|Exit Code: 606",
        Advice(
            "This site and the coordinator run different versions of Flower.",
            "Install the release that the coordinator names, the same everywhere.",
        ),
    ),
    (
        r"Exit Code: 302",
        Advice(
            "Flower cannot use the private key.",
            "key_file must be an unencrypted EC key in OpenSSH format: make a new one with --init, send its .pub file.",
        ),
    ),
    (
        r"Exit Code: 401|superexec.*(unauthenticated|auth.*fail)",
        Advice(
            "The runner and the node do not share their secret.",
            "Stop every client of this site and start one again; the secret is made anew at each start.",
        ),
    ),
    (
        r"address already in use|Runtime HTTP API failed to start",
        Advice(
            "The node's local port is taken by another program.",
            "Set runtime_port in the site file to a free port; with several sites on one machine each needs its own.",
        ),
    ),
    (
        r"\b401 Unauthorized",
        Advice(
            "The coordinator refused this node's signature (401): most often this machine's clock is more than 5 s"
            " ahead, or the registration was removed.",
            _SET_CLOCK,
        ),
    ),
    (
        r"SuperNode terminated gracefully",  # so flwr ends, with code 0, when it gets a 401
        Advice(
            "The node ended by itself: the coordinator refused its signature (401; most often this machine's clock is"
            " more than 5 s ahead, or the registration was removed), or somebody stopped it.",
            _SET_CLOCK,
        ),
    ),
    (
        r"\b403 Forbidden|RunNotRunningException",
        Advice(
            "The coordinator's gateway or a proxy refused a request (403), or the run has ended meanwhile.",
            "Nothing to do if the run has ended; if it lasts, ask the coordinator whether /v1/fleet/ is open, and the"
            " network team about the proxy.",
        ),
    ),
    (
        r"\b413 (Request Entity|Payload|Content) Too Large",
        Advice(
            "A gateway or proxy refused the size of the weights (413), so this round's reply was lost.",
            "Ask the coordinator (or the network team, for a proxy) to allow request bodies of at least 8 MB.",
        ),
    ),
    (
        r"\b407 Proxy Authentication|Tunnel connection failed|ProxyError",
        Advice(
            "The hospital's proxy refused the connection.",
            "Ask the network team to allow CONNECT to coordinator.address, or put its host into NO_PROXY if no proxy"
            " is needed.",
        ),
    ),
    (
        r"Connection attempt failed",
        Advice(
            "The coordinator cannot be reached; it is tried again by itself.",
            "If it lasts: python -m client --site NAME --check tells name, port, proxy and TLS apart.",
        ),
    ),
    (
        r"Exit Code: 305",
        Advice(
            "The node could not connect to the coordinator (305).",
            "python -m client --site NAME --check tells the causes apart; details are in logs/node.log.",
        ),
    ),
)
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in _KNOWN)

CONNECTED, WAITING = "connected", "cannot reach the coordinator, trying again"
_STATES = re.compile(
    r"(?P<connected>SuperNode ID: \d+|Connection successful|(Received|Sent) successfully)|Connection attempt failed"
)


def explain(text: str) -> Advice | None:
    """Advice for the most particular known error in a piece of log or an exception's text."""
    return next((advice for pattern, advice in _PATTERNS if pattern.search(text)), None)


def connection_state(text: str) -> str | None:
    """`CONNECTED` or `WAITING`, by the last word that the node's log says about it; None when it says nothing."""
    state = None
    for match in _STATES.finditer(text):
        state = CONNECTED if match["connected"] else WAITING
    return state
