"""What the runner needs of Flower. A real node is asked in tests/integration/test_runner.py."""

import inspect
from collections.abc import Callable
from importlib.metadata import version
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

from client.process.runtime_api import ACQUIRE

ADVICE = (
    "client/process/runtime_api.py is written for the private interfaces of Flower 1.41, and {what} is another one in"
    " the installed flwr "
    + version("flwr")
    + ": install flwr>=1.41,<1.42, or adapt client/process/runtime_api.py and this test together"
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
