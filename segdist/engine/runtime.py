"""What a model costs: seconds an image, images a second, memory, arithmetic, bytes on disk."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

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
    """Writes `runtime/peak_memory_mb`, in units of 1e6 bytes: what the block needed at most.

    On a GPU all that torch had allocated there. On a CPU the rise of the process's resident memory; nothing is
    written where the system does not let it be measured.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield
        values["runtime/peak_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        return
    before = _resident(reset=True)
    yield
    after = _resident()
    if before is not None and after is not None:
        values["runtime/peak_memory_mb"] = max(after - before, 0) / 1e6


def _resident(*, reset: bool = False) -> int | None:
    """Bytes: the highest resident memory of this process since the last reset; with a reset, the present one."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux
        return None
    if reset:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # some containers forbid it
            return None
    line = next((row for row in status.read_text().splitlines() if row.startswith("VmHWM")), None)
    return int(line.split()[1]) * 1024 if line else None


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
