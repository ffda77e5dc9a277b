"""Which tensors a computation reads, found by doing it once."""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_ABOUT = frozenset(
    getattr(Tensor, name).__get__
    for name in ("device", "dtype", "shape", "ndim", "layout", "requires_grad", "is_cuda", "is_leaf", "is_sparse")
) | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex}
"""What tells of a tensor, and not its values."""


class Reads(TorchFunctionMode):
    """Within the block it is noted which of some tensors are given to torch.

    Args:
        named: the tensors.

    Attributes:
        names: of those that were read.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in named.items()}
        self.names: set[str] = set()

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Note what a function of torch is given, and call it."""
        if function not in _ABOUT:
            for given in pytree.tree_leaves((args, kwargs or {})):
                if isinstance(given, Tensor) and id(given) in self._names:
                    self.names.add(self._names[id(given)])
        return function(*args, **(kwargs or {}))
