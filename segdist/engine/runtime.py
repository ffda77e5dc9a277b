"""What a model costs: seconds an image, images a second, memory, arithmetic, bytes on disk."""

import gc
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segdist.core.cards import has_card
from segdist.core.causes import is_out_of_memory
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt

Values = dict[str, float]


class Model(Protocol):
    """A network, or one with its tiles, views and post-processing around it."""

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """As `Segmenter.predict`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the network."""


LARGEST_BATCH = 32
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def latency(seconds: Sequence[float]) -> Values:
    """From the seconds that single images took: median and 95th percentile, in milliseconds."""
    if not seconds:
        return {}
    p50, p95 = (1000 * float(v) for v in np.percentile(list(seconds), (50, 95)))
    return {"runtime/latency_p50_ms": p50, "runtime/latency_p95_ms": p95}


def throughput(
    network: Model, images: Sequence[ImageHWC], prompts: Sequence[Prompt], *, budget_seconds: float = 10.0
) -> Values:
    """Images a second at the best batch size among 1, 2, 4, ..., and that batch size.

    Larger batches are tried until one is slower than the one before, does not fit, or the time is used up.

    Args:
        network: a `Segmenter`, ready to predict.
        images: real ones; repeated where a batch needs more.
        prompts: one for each image.
        budget_seconds: of the whole measurement; the smallest batch is measured in any case.
    """
    best, best_batch, start, size = 0.0, 1, time.perf_counter(), 1
    while size <= LARGEST_BATCH:
        chosen = [k % len(images) for k in range(size)]
        try:
            took = timed(network, [images[k] for k in chosen], [prompts[k] for k in chosen])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if size / took <= best:
            break
        best, best_batch = size / took, size
        if time.perf_counter() - start + 2 * took > budget_seconds:
            break
        size *= 2
    return {"runtime/images_per_second": best, "runtime/best_batch": float(best_batch)}


def timed(network: Model, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> float:
    """Seconds of one prediction; results are back on the CPU by then."""
    _wait()
    start = time.perf_counter()
    with torch.inference_mode():
        network.predict(images, prompts)
    _wait()
    return time.perf_counter() - start


def flops(network: Model, image: ImageHWC, prompt: Prompt) -> Values:
    """Floating-point operations of matrix products, convolutions and attention in one prediction, in units of 1e9."""
    with _frozen(network), FlopCounterMode(display=False) as counter, torch.no_grad():
        network.predict([image], [prompt])
    return {"runtime/gflops": counter.get_total_flops() / 1e9}


@contextmanager
def _frozen(network: Model) -> Iterator[None]:
    """Without trainable parameters: torch's counter hooks a module's inputs, and fails on one that is a parameter."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True


def bytes_on_disk(folder: Path) -> Values:
    """Size of a model folder: what was trained, and the frozen weights where they are kept with it."""
    return {"model/bytes": float(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))}


@contextmanager
def peak_memory(values: Values) -> Iterator[None]:
    """Writes `runtime/peak_memory_mb`, in units of 1e6 bytes: what the process had at most during the block.

    On a GPU all that torch had allocated there. On a CPU its resident memory, with the interpreter, libraries and
    weights: what a machine must have to run it.
    """
    gc.collect()
    forget_peak()
    yield
    values["runtime/peak_memory_mb"] = peak_bytes() / 1e6


def forget_peak() -> None:
    """Let `peak_bytes` begin anew; where the system forbids that, it tells what the process ever had."""
    if has_card():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or a container that does not let it be written
        _CLEAR.write_text("5")


def peak_bytes() -> int:
    """The most since `forget_peak`: allocated by torch on a GPU; where there is none, resident."""
    return torch.cuda.max_memory_allocated() if has_card() else resident_peak_bytes()


def resident_peak_bytes() -> int:
    """The most resident memory of this process since `forget_peak`."""
    if _STATUS.exists():
        line = next((row for row in _STATUS.read_text().splitlines() if row.startswith("VmHWM")), None)
        if line:
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _wait() -> None:
    if has_card():
        torch.cuda.synchronize()
