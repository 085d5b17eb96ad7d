"""The device that a program computes on."""

import os
import shutil
from importlib.util import find_spec

import torch
from torch import Tensor

from agi_core.errors import ConfigError
from agi_core.host.allocator import keep_freed_memory


def open_device(name: str, *, threads: int, deterministic: bool = False, compiled: bool = False) -> torch.device:
    """The device called `name`, such as `cpu`, `cuda` or `cuda:1`; `auto` is a GPU where there is one.

    PyTorch's number of CPU threads is set to `threads`, and this process keeps the memory that it frees
    (`agi_core.host.allocator`). On a GPU, convolutions in float32 are not rounded to TF32, which PyTorch's default
    allows. `deterministic` holds for the rest of the process: a GPU then gives the same results bit for bit whenever it
    is asked the same, and is slower. On a CPU it changes nothing.

    Raises:
        ConfigError: this machine has no such device, or networks are to be `compiled` and it has no compiler.
    """
    torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.allow_tf32 = False  # what autocast leaves in float32 needs its digits
    keep_freed_memory()
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: this machine has no usable GPU; set device=cpu or device=auto")
    try:
        device = torch.empty(0, device=wanted).device
    except (RuntimeError, NotImplementedError, AssertionError):  # torch's ways to say that a device is not there
        raise ConfigError(f"device={name} cannot be used on this machine; set device=auto, cpu or cuda") from None
    if compiled and (missing := _missing_compiler(device)):
        raise ConfigError(f"compile: this machine has no {missing}; install it, or leave compile out")
    return device


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device. The program does not wait until a GPU has it: the memory is pinned first."""
    return pinned(tensor, device).to(device, non_blocking=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU, in memory that a GPU reads by itself; as it is where there is none, or where it is so."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _missing_compiler(device: torch.device) -> str:
    """What `torch.compile` needs for the device and does not find; empty if nothing."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton"
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else compiler
