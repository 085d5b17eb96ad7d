"""The networks that a site works with: built once per task, since each request brings all weights."""

import gc
from functools import lru_cache

import torch

from agi_core.config.schema import Task
from agi_core.network import Network


@lru_cache(maxsize=2)
def network_of(task: Task, device: torch.device, *, compiled: bool) -> Network:
    """The task's network on this device; one for all requests, and in a simulation for all sites in turn."""
    return Network(task, device=device, compiled=compiled)


def release_memory() -> None:
    """Forget the networks with their gradients and give cached GPU memory back, after a request that did not fit."""
    network_of.cache_clear()
    gc.collect()
    torch.cuda.empty_cache()
