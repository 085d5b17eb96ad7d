"""What the runner needs of Flower, and its small parts. The runner itself runs in tests/integration/test_runner.py."""

import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec import run_superexec
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.process.runner import ACQUIRE, allowed_s, main
from client.site.policy import Policy
from tests.support.requests_by_hand import deployed_site

ADVICE = (
    "client/process/runner.py is written for the private interfaces of Flower 1.41, and {what} is another one in the"
    " installed flwr "
    + version("flwr")
    + ": install flwr>=1.41,<1.42, or adapt client/process/runner.py and this test together"
)


def test_flower_is_the_minor_release_that_the_runner_is_written_for() -> None:
    assert version("flwr").startswith("1.41."), ADVICE.format(what="the release")


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (RuntimeHttpClient.from_server_address, "server_address insecure root_certificates interceptors retry_invoker"),
        (RuntimeHttpClient.AcquireTask, "self request"),
        (RuntimeHttpClient.SendTaskHeartbeat, "self request"),
        (RuntimeHttpClient.close, "self"),
        (RuntimeVersionHttpInterceptor, "component_name"),
        (RuntimeTokenHttpInterceptor, "token"),
        (SuperExecAuthHttpInterceptor, "master_secret protected_methods"),
        (HeartbeatSender, "heartbeat_fn"),
        (HeartbeatSender.start, "self"),
        (HeartbeatSender.stop, "self"),
        (exponential, "base_delay multiplier max_delay"),
        (pull_task_input, "client"),
        (push_message, "client message context"),
        (push_task_output, "client context sub_status details"),
    ],
)
def test_a_private_function_takes_what_the_runner_gives(function: Callable[..., Any], parameters: str) -> None:
    assert " ".join(inspect.signature(function).parameters) == parameters, ADVICE.format(what=function.__qualname__)


def test_the_private_names_that_carry_no_signature() -> None:
    needed = {"wait_gen_factory", "recoverable_exceptions", "max_tries", "max_time"}
    assert needed <= set(inspect.signature(RetryInvoker).parameters), ADVICE.format(what="RetryInvoker")
    assert {ACQUIRE} == run_superexec._SUPEREXEC_AUTH_METHODS, ADVICE.format(what="what the secret signs")
    assert "supported_task_types" in AcquireTaskRequest.DESCRIPTOR.fields_by_name
    assert {"task", "token"} <= set(AcquireTaskResponse.DESCRIPTOR.fields_by_name)
    assert SendTaskHeartbeatRequest().SerializeToString() == b""
    assert TaskType.CLIENT_APP in list(TaskType)


@pytest.mark.parametrize(
    ("scalars", "seconds"),
    [({"deadline_s": 60}, 60), ({"deadline_s": 9999}, 600), ({"deadline_s": "60"}, 600), ({}, 600)],
)
def test_a_request_gets_the_time_it_asks_for_but_never_more_than_the_site_allows(
    scalars: dict[str, object], seconds: int
) -> None:
    assert allowed_s(scalars, Policy(max_deadline_s=600)) == seconds


@pytest.mark.parametrize("secret", [None, b""])
def test_a_secret_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], secret: bytes | None) -> None:
    if secret is not None:
        (tmp_path / "secret").write_bytes(secret)
    site_path = deployed_site(tmp_path, tmp_path)
    assert main(["--site-file", str(site_path), "--secret-file", str(tmp_path / "secret")]) == 1
    assert str(tmp_path / "secret") in capsys.readouterr().err


def test_a_site_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--site-file", str(tmp_path / "no.yaml"), "--secret-file", str(tmp_path / "secret")]) == 1
    assert "does not exist" in capsys.readouterr().err
