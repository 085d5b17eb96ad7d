import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from agi_core.errors import ConfigError
from agi_core.host.device import open_device, sent
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_device_with_its_threads() -> None:
    assert open_device("cpu", threads=2) == torch.device("cpu")
    assert torch.get_num_threads() == 2


def test_float32_is_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as PyTorch has it
    open_device("cpu", threads=1)
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_the_program_does_not_wait_until_a_gpu_has_a_tensor(
    monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    tensor, in_pinned_memory = torch.zeros(2), torch.ones(2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda _: in_pinned_memory)
    monkeypatch.setattr(torch.Tensor, "to", lambda *arguments, **options: (*arguments, options))
    copied, where, options = sent(tensor, torch.device(device))
    assert copied is (in_pinned_memory if pinned else tensor)
    assert (where, options) == (torch.device(device), {"non_blocking": True})


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert open_device("auto", threads=1).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def not_deterministic_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("not_deterministic_afterwards")
def test_deterministic_holds_for_the_rest_of_the_process_and_changes_nothing_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # a choice of the user's own stays

    def outcome() -> list[torch.Tensor]:
        model = build_model(ModelConfig(dims=3, widths=(4, 8), alignment="dense"), sources=2)
        loss = model(torch.rand((1, 2, 8, 8, 8), generator=torch.Generator().manual_seed(0))).square().sum()
        return [loss, *torch.autograd.grad(loss, [*model.parameters()])]

    before = outcome()
    open_device("cpu", threads=1, deterministic=True)
    open_device("cpu", threads=1)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    for a, b in zip(outcome(), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("not_deterministic_afterwards")
def test_deterministic_gives_cublas_a_workspace() -> None:
    open_device("cpu", threads=1, deterministic=True)
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cuda 0"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"device={name}.* set device=.*auto"):
        open_device(name, threads=1)


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="compile: this machine has no g\\+\\+; install it, or leave compile out"):
        open_device("cpu", threads=1, compiled=True)
    compiler = tmp_path / "g++"
    compiler.touch(0o755)
    assert open_device("cpu", threads=1, compiled=True) == torch.device("cpu")
