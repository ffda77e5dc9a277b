"""Memory that is freed: kept for the next layer or tile, or given back before the next trial."""

import ctypes
import gc

import torch

from segdist.core.cards import has_card

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""
_KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Let large blocks stay with this process when they are freed, where the C library is glibc.

    By default every tensor above 32 MB is mapped anew, and the system clears its pages: a third of the time that a
    U-Net takes for tiles of 1,024 pixels on a CPU. The peak of memory stays what it is, but what is freed is not given
    back, so processes whose memory is measured should not ask for this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Give what a process has freed back to the system and to the card, where others, or its next trial, need it.

    What torch keeps on a card for itself no other process can have; glibc keeps most of what was freed below something
    that is still held, so that a process that is used again would seem to need more each time.
    """
    gc.collect()
    if has_card():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
