"""Freed memory is used again without the system's help, or given back to it."""

import platform
import subprocess
import sys

import pytest
import torch

from segdist.engine.allocation import give_back

SCRIPT = """
import resource
import numpy as np
from segdist.engine.allocation import keep_freed_memory

def faults():
    np.ones(2**26, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
print(faults(), given_back)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_large_blocks_that_were_freed_are_used_again() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    kept, given_back = map(int, said.split())
    assert kept < given_back / 10, "pages that the system had to clear"


FRAGMENTED = """
from pathlib import Path
from segdist.engine.allocation import give_back

def resident():
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS"))

held = [bytearray(2000) for _ in range(100_000)]
last = held[-1]
before = resident()
del held
after = resident()
give_back()
print(before, after, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_what_a_trial_has_freed_is_given_back_below_what_is_still_held() -> None:
    said = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True).stdout
    before, freed, given_back = (int(kilobytes) / 1000 for kilobytes in said.split())
    assert before - freed < 50, "of 200 MB, which the library keeps"
    assert before - given_back > 150


def test_what_torch_keeps_on_a_card_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    for is_there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        give_back()
    assert emptied == [True]
