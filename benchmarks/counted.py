"""What a piece of work asks of a device: operations, bytes, flops, and waits of the program for it. Any device will do.

They are counted where torch hands an operation to a device, below autograd. On a GPU each operation launches one kernel
or a few, so on a machine without one the operations predict what a launch-bound step costs there. An optimiser's step
is left out: on a GPU torch takes it for all parameters at once, on a CPU for one after the other.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

WAITS = frozenset({"_local_scalar_dense", "_linalg_check_errors", "nonzero", "masked_select", "lift_fresh"})
"""As in `tests/unit/test_training.py`: a number is asked for, a shape depends on values, a number is copied."""
NO_WORK = frozenset(
    {"_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty", "lift_fresh"}
)


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered.

    Attributes:
        operations: those that compute or copy; views and allocations do not.
        bytes: of the tensors that these read and write, as if nothing stayed in a cache.
        flops: of convolutions and matrix products.
        waits: operations of `WAITS`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = self.flops = self.waits = 0
        self.paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.paused:
            return result
        name = func.overloadpacket.__name__
        self.waits += name in WAITS
        if not (func.is_view or name in NO_WORK):
            self.operations += 1
            if flops := flop_registry.get(func.overloadpacket):
                self.flops += flops(*args, **(kwargs or {}), out_val=result)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def counted(work: Callable[[], object]) -> Counted:
    """The counts of the work."""
    counts = Counted()
    with counts:
        before = register_optimizer_step_pre_hook(lambda *_: setattr(counts, "paused", True))
        after = register_optimizer_step_post_hook(lambda *_: setattr(counts, "paused", False))
        try:
            work()
        finally:
            before.remove()
            after.remove()
    return counts
