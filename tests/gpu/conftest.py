"""Where these tests compute: on a card; with SEGDIST_GPU_TESTS_ON=cpu on the CPU, to write them where there is none."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch

from segdist.core.cards import lent
from segdist.engine.workers import Workers

ON_CPU = os.environ.get("SEGDIST_GPU_TESTS_ON", "cuda") == "cpu"
Row = tuple[str, str, float, float, float]
"""Family, precision, seconds a step, peak memory in MB, val/iou."""
Note = Callable[[Row], None]
ROWS, LINES = pytest.StashKey[list[Row]](), pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the table."""
    config.stash[ROWS], config.stash[LINES] = [], []


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    """Where the engine computes in these tests, whoever asks for it."""
    if not ON_CPU and not torch.cuda.is_available():
        pytest.skip("no CUDA card on this machine")
    with lent(any_card=not ON_CPU):
        yield Workers.here().device
    if not ON_CPU:
        torch.cuda.empty_cache()


@pytest.fixture
def workers(device: torch.device) -> Workers:
    """One process on the device."""
    return Workers(device=device)


@pytest.fixture
def card(device: torch.device) -> torch.device:
    """The device, for what a CPU does not have."""
    if device.type != "cuda":
        pytest.skip("only a card has this")
    return device


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Note:
    """Takes a row of the table."""
    return request.config.stash[ROWS].append


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line that stands under the table."""
    return request.config.stash[LINES].append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows, said_lines = config.stash.get(ROWS, []), config.stash.get(LINES, [])
    if not rows and not said_lines:
        return
    name = "CPU" if ON_CPU else f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    terminalreporter.section(f"measured on: {name}")
    terminalreporter.write_line(f"{'family':22}{'precision':12}{'ms a step':>10}{'peak MB':>10}{'val/iou':>9}")
    for family, precision, seconds, peak, iou in rows:
        terminalreporter.write_line(f"{family:22}{precision:12}{1000 * seconds:10.1f}{peak:10.0f}{iou:9.3f}")
    for line in said_lines:
        terminalreporter.write_line(line)
