"""A network whose weights, gradients and states of the optimiser are divided over the workers: torch's FSDP2.

What is written to disk and what is scored is whole, so that neither knows how many workers there were.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from segdist.adapters.freezing import blocks_of
from segdist.core.plugins import Family
from segdist.engine.workers import Workers
from segdist.nets.segmenter import Segmenter

_LARGE = 0.05
"""Share of the parameters from which on a row of like layers is divided layer by layer."""


def shard(network: Segmenter, family: Family, workers: Workers) -> None:
    """Divide a network over the workers, in place, block by block: a worker holds one block whole at a time.

    Every worker must compute every block as often as the others, whatever its images show; what a step may leave out
    (`Family.sometimes_unused`) is no block of its own. Gradients are divided after each pass, so that those of several
    passes add up in the divided ones. Parameters without a dimension stay whole on each worker.

    Args:
        network: with its weights, on the CPU; every worker has the same.
        family: declares its blocks.
        workers: more than one.
    """
    mesh = init_device_mesh(workers.device.type, (workers.world_size,))
    scalars = {p for p in network.parameters() if not p.ndim}
    for block in _blocks(network, family):
        fully_shard(network.get_submodule(block), mesh=mesh, ignored_params=scalars)
    fully_shard(network, mesh=mesh, ignored_params=scalars)
    for scalar in scalars:
        scalar.data = scalar.data.to(workers.device)
    assert isinstance(network, FSDPModule)
    network.set_reduce_scatter_unused_params(bool(family.sometimes_unused))


def _blocks(network: nn.Module, family: Family) -> list[str]:
    """Names of the modules that are divided one by one: the encoder's blocks, and large rows of like layers."""
    every = sum(p.numel() for p in network.parameters())
    blocks = [name for name in blocks_of(network, family.encoder_blocks) if _is_on_its_own(network, name)]
    for name, module in network.named_modules():
        if (
            isinstance(module, nn.ModuleList | nn.Sequential)
            and sum(p.numel() for p in module.parameters()) >= _LARGE * every
            and not any(f"{block}.".startswith(f"{name}.") or f"{name}.".startswith(f"{block}.") for block in blocks)
            and not name.startswith(family.sometimes_unused)
        ):
            blocks += _like_layers(network, name)
    return blocks


def _like_layers(network: nn.Module, row: str) -> list[str]:
    """Names of the layers in a row, where all are of one class."""
    layers = [f"{row}.{child}" for child, _ in network.get_submodule(row).named_children()]
    layers = [name for name in layers if _is_on_its_own(network, name)]
    return layers if len({type(network.get_submodule(name)) for name in layers}) == 1 < len(layers) else []


def _is_on_its_own(network: nn.Module, name: str) -> bool:
    """Whether a module has parameters, and shares none with the rest: shared ones are gathered with the network's."""
    module = network.get_submodule(name)
    own = set(map(id, module.parameters()))
    everywhere = sum(id(p) in own for _, p in network.named_parameters(remove_duplicate=False))
    return bool(own) and everywhere == sum(1 for _ in module.named_parameters(remove_duplicate=False))


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Within the block each worker holds all weights and uses them at its own pace; nobody is to change them."""
    assert isinstance(network, FSDPModule)
    network.set_reshard_after_forward(False)  # workers predict other numbers of batches: none may wait for another
    for part in network.modules():
        if isinstance(part, FSDPModule):
            part.unshard()
    try:
        yield
    finally:
        network.reset_iter_state()
        network.set_reshard_after_forward(True)
        network.set_reshard_after_forward(False, recurse=False)  # what is in no block is needed again at once
