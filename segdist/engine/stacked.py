"""What several networks compute at once: their weights stacked where they differ, in one pass (`torch.vmap`).

A model ensemble, in which the gradients of each are those that it would have alone. What is the same in all of them,
and does not depend on what differs, is computed once.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import pad
from torch.utils import _pytree as pytree

from segdist.adapters import lora_scalings
from segdist.engine.reads import Reads
from segdist.nets.segmenter import Segmenter, Tree


@dataclass(frozen=True)
class Call:
    """A method of a network that is to be called.

    Attributes:
        network: whose.
        method: its name.
        leaves: the tensors and other values in its arguments.
        spec: how the arguments are put together from them.
    """

    network: Segmenter
    method: str
    leaves: Sequence[object]
    spec: pytree.TreeSpec

    @classmethod
    def of(cls, network: Segmenter, method: str, arguments: tuple[object, ...]) -> "Call":
        """The call with these arguments."""
        return cls(network, method, *pytree.tree_flatten(arguments))

    @property
    def kind(self) -> Hashable:
        """Equal for calls, of networks of one structure, that can be computed at once."""
        return self.manner, tuple(tuple(v.shape) for v in self.leaves if isinstance(v, Tensor))

    @property
    def manner(self) -> Hashable:
        """How it is computed, whatever the sizes of its arguments are."""
        kinds = tuple((v.ndim, v.dtype, v.device) if isinstance(v, Tensor) else v for v in self.leaves)
        casts = tuple(
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            for device in ("cpu", "cuda")
        )
        grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return self.method, self.network.training, grad, casts, self.spec, kinds

    def alone(self) -> Tree:
        """What it gives."""
        return getattr(self.network, self.method)(*pytree.tree_unflatten(self.leaves, self.spec))


def structure(network: Segmenter) -> Hashable:
    """Equal for networks that compute the same but for their weights, and for the ranks of their adapters."""
    modules = tuple((name, type(m), m.p if isinstance(m, nn.Dropout) else 0.0) for name, m in network.named_modules())
    return type(network), network.options.model_dump_json(), network.classes, modules


def share_frozen(networks: Iterable[Segmenter], network: Segmenter) -> None:
    """Have a network's frozen weights be those of others, where they are equal: once in memory for all."""
    own = {name: p for name, p in network.named_parameters() if not p.requires_grad}
    for other in networks:
        for name, value in other.named_parameters():
            if name in own and not value.requires_grad and _equal(own[name], value):
                own[name].data = value.data


def differing(networks: Sequence[Segmenter]) -> tuple[str, ...]:
    """Names of the weights that are not the same in all of the networks."""
    moving = _moving_buffers(networks[0])
    named = zip(*map(_named_tensors, networks), strict=True)
    return tuple(of[0][0] for of in named if of[0][0] in moving or not _are_one([value for _, value in of]))


def read_by(call: Call, names: Sequence[str]) -> tuple[Tree, tuple[str, ...]]:
    """What a call gives, and which of these weights it reads."""
    tensors = dict(_named_tensors(call.network))
    with Reads({name: tensors[name] for name in names}) as reads:
        answer = call.alone()
    return answer, tuple(name for name in names if name in reads.names)


def are_alike(calls: Sequence[Call]) -> bool:
    """Whether all have the same arguments."""
    return all(_one_or_stacked(values)[1] is None for values in zip(*(call.leaves for call in calls), strict=True))


@contextmanager
def statistics_kept(networks: Iterable[nn.Module]) -> Iterator[None]:
    """After the block the statistics that a forward pass writes to are what they were."""
    kept = [(buffer, buffer.clone()) for network in networks for buffer in _moving_buffers(network).values()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def at_once(calls: Sequence[Call], names: Sequence[str]) -> list[Tree]:
    """What each of the calls gives.

    Args:
        calls: of one kind.
        names: of the weights that they read and that are not the same in all of their networks.

    Raises:
        RuntimeError: the method does what cannot be computed at once: it draws at random where the networks differ, or
            what it does next depends on values.
    """
    first, networks = calls[0], [call.network for call in calls]
    weights = _stacked_weights(networks, names)
    leaves = [_one_or_stacked(values) for values in zip(*(call.leaves for call in calls), strict=True)]
    own = {number: stack for number, (_, stack) in enumerate(leaves) if stack is not None}
    module = _Method(first.network, first.method)

    def compute(weights: Mapping[str, Tensor], own: Mapping[int, Tensor]) -> Tree:
        given = [own.get(number, value) for number, (value, _) in enumerate(leaves)]
        return functional_call(module, dict(weights), tuple(pytree.tree_unflatten(given, first.spec)))

    values, spec = pytree.tree_flatten(vmap(compute, randomness="error")(weights, own))
    for name in _moving_buffers(first.network).keys() & names:
        for network, moved in zip(networks, weights[f"network.{name}"].unbind(), strict=True):
            network.get_buffer(name).copy_(moved)
    return [pytree.tree_unflatten(of_one, spec) for of_one in zip(*(v.unbind() for v in values), strict=True)]


def furthest(some: Tree, others: Tree) -> float:
    """The largest distance between what two calls give, relative to the largest value of each tensor."""
    gaps = [0.0]
    for one, other in zip(pytree.tree_leaves(some), pytree.tree_leaves(others), strict=True):
        if one.numel() and bool(torch.isfinite(one).all()):
            gaps.append(float((one - other).abs().max()) / max(float(one.abs().max()), 1e-6))
    return max(gaps)


class _Method(nn.Module):
    """A method as a module, whose weights can be replaced for a call."""

    def __init__(self, network: Segmenter, method: str) -> None:
        super().__init__()
        self.network, self._method = network, method

    def forward(self, *arguments: object) -> Tree:
        return getattr(self.network, self._method)(*arguments)


def _one_or_stacked(values: Sequence[object]) -> tuple[object, Tensor | None]:
    """An argument that is the same in all calls; or the stack of different ones."""
    first, tensors = values[0], [value for value in values if isinstance(value, Tensor)]
    if not tensors or all(value is first for value in values):
        return first, None
    if not any(t.requires_grad for t in tensors) and all(_equal(t, tensors[0]) for t in tensors):
        return first, None
    return first, torch.stack(tensors)


def _stacked_weights(networks: Sequence[Segmenter], names: Sequence[str]) -> dict[str, Tensor]:
    """What is not the same in all networks, as attributes of `_Method`.

    Low-rank matrices are filled up with zeros to the largest rank, which changes no product. Their scale stands in the
    first network, which computes: those of the others are multiplied by what theirs is more than that.
    """
    scalings = [lora_scalings(network) for network in networks]
    found, of_networks = {}, [dict(_named_tensors(network)) for network in networks]
    for name in names:
        values = [of_one[name] for of_one in of_networks]
        scale = scalings[0].get(name)
        factors = [of_one[name] / scale if scale else 1.0 for of_one in scalings] if scale else []
        if any(factor != 1 for factor in factors):
            values = [value * factor for value, factor in zip(values, factors, strict=True)]
        found[f"network.{name}"] = torch.stack(_of_one_shape(values))
    return found


def _named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _are_one(values: Sequence[Tensor]) -> bool:
    """Whether tensors are one in memory; or equal, if they are small: buffers that training does not move."""
    if all(v.data_ptr() == values[0].data_ptr() and v.shape == values[0].shape for v in values):
        return True
    return not isinstance(values[0], nn.Parameter) and all(_equal(v, values[0]) for v in values)


def _equal(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


def _moving_buffers(network: nn.Module) -> dict[str, Tensor]:
    """Statistics that a forward pass writes to: in a stack each network has its own."""
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    }
    return {f"{name}.{of}": buffer for name, module in norms.items() for of, buffer in module.named_buffers()}


def _of_one_shape(values: Sequence[Tensor]) -> list[Tensor]:
    largest = [max(sizes) for sizes in zip(*(v.shape for v in values), strict=True)]
    return [_filled_up(value, largest) for value in values]


def _filled_up(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """A tensor with zeros behind its values, up to these sizes."""
    missing = [more - size for more, size in zip(sizes, value.shape, strict=True)]
    return pad(value, [n for size in reversed(missing) for n in (0, size)]) if any(missing) else value
