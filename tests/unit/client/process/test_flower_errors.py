"""Texts as flwr 1.41.0 and Python's ssl wrote them (seen with flower-supernode against real SuperLinks)."""

import pytest

from client.process.flower_errors import CONNECTED, WAITING, connection_state, explain

EXIT_305 = """\x1b[91mERROR \x1b[0m:     Exit Code: 305
Failed to initialize the connection to the SuperLink.
{}
The SuperNode could not establish a connection to the SuperLink.

For more information, visit: <https://flower.ai/docs/framework/1.41/en/ref-exit-codes/305.html>
INFO:     Shutting down
"""
RETRY = "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 3.88 seconds\n"
TLS = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {} (_ssl.c:1006)"


@pytest.mark.parametrize(
    ("text", "cause", "step"),
    [
        (EXIT_305.format("[code: 2004] Failed to activate SuperNode."), "2004", "register"),
        (
            EXIT_305.format("[code: 2001] SuperNode authentication is enabled. All SuperNodes must be registered"),
            "2001",
            "key_file",
        ),
        (EXIT_305.format(TLS.format("certificate has expired")), "has expired", "renew"),
        (EXIT_305.format(TLS.format("certificate is not yet valid")), "not valid yet", "clock"),
        (
            EXIT_305.format(TLS.format("IP address mismatch, certificate is not valid for '127.0.0.1'.")),
            "another name",
            "exact name",
        ),
        (
            EXIT_305.format(TLS.format("Hostname mismatch, certificate is not valid for 'a.example'.")),
            "another name",
            "exact name",
        ),
        (EXIT_305.format(TLS.format("unable to get local issuer certificate")), "not signed by", "ca.crt"),
        (EXIT_305.format(TLS.format("self-signed certificate in certificate chain")), "not signed by", "ca.crt"),
        (
            EXIT_305.format("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
            "does not speak TLS",
            "port",
        ),
        (
            EXIT_305.format("[SSL: HTTP_REQUEST] http request (_ssl.c:1006)"),
            "does not speak TLS",
            "port",
        ),
        (EXIT_305.format("something new"), "305", "--check"),
        (RETRY, "cannot be reached", "--check"),
        ("INFO :      SuperNode terminated gracefully.", "401", "clock"),
        (RETRY + "INFO :      SuperNode terminated gracefully.", "401", "clock"),
        ("httpx.HTTPStatusError: Client error '401 Unauthorized' for url 'https://x'", "401", "clock"),
        ("Client error '403 Forbidden' for url 'https://c/v1/fleet/push-messages'", "403", "/v1/fleet/"),
        ("Client error '413 Request Entity Too Large' for url 'https://c/v1/fleet/push-object'", "413", "8 MB"),
        ("[Errno 98] error while attempting to bind on address: address already in use", "port", "runtime_port"),
        ("ProxyError: 407 Proxy Authentication Required", "proxy", "CONNECT"),
    ],
)
def test_known_texts_become_a_sentence_and_a_next_step(text: str, cause: str, step: str) -> None:
    advice = explain(text)
    assert advice is not None
    assert cause in advice.sentence
    assert step in advice.next_step
    assert "\n" not in str(advice)


def test_a_name_in_a_traceback_is_no_plain_http() -> None:
    assert explain("  File starlette/routing.py, line 99, in http_request_response\nKeyError: 1\n") is None


def test_ordinary_lines_need_no_advice() -> None:
    assert explain("INFO :      Starting Flower SuperNode\nRun 413 of 403, 401 steps, round 2004\n") is None
    assert explain("") is None


def test_the_last_word_about_the_connection_counts() -> None:
    connected = "INFO :      SuperNode ID: 1234567890\n"
    again = "INFO :      Connection successful after 5.01 seconds and 4 tries.\n"
    assert connection_state("INFO :      Starting Flower SuperNode\n") is None
    assert connection_state(connected) == CONNECTED
    assert connection_state(connected + RETRY) == WAITING
    assert connection_state(connected + RETRY + again) == CONNECTED
    assert connection_state(connected + RETRY + "INFO :      Received successfully\n") == CONNECTED  # says no more then
