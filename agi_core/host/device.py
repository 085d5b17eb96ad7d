"""The device that a program computes on."""

import torch

from agi_core.errors import ConfigError
from agi_core.host.allocator import keep_freed_memory


def open_device(name: str, *, threads: int) -> torch.device:
    """The device called `name`, such as `cpu`, `cuda` or `cuda:1`; `auto` is a GPU where there is one.

    PyTorch's number of CPU threads is set to `threads`, and this process keeps the memory that it frees
    (`agi_core.host.allocator`).

    Raises:
        ConfigError: this machine has no such device.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: this machine has no usable GPU; set device=cpu or device=auto")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, NotImplementedError, AssertionError):  # torch's ways to say that a device is not there
        raise ConfigError(f"device={name} cannot be used on this machine; set device=auto, cpu or cuda") from None
