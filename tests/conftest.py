"""Fixtures that tests share."""

import gc
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from segdist.pipeline.cluster import connected
from tests.s3 import s3_server

settings.register_profile("busy", deadline=None)  # a machine that does other work too must fail no test
settings.load_profile("busy")

for number in (signal.SIGINT, signal.SIGHUP):  # who starts the tests in the background or by nohup ignores them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# Folders whose tests stay in one process: they share a fixture that is expensive to make.
GROUPS = {"engine": "engine", "exporting": "engine", "pages": "tracking", "tracking": "tracking"}
RAY_STARTERS = {"cluster", "segdist", "cluster_of", "subprocess"}
"""Fixtures of tests, and names in modules of `pipeline`, by which Ray may be started."""
LONGEST_ID = 100
"""Characters of a value that is its own name."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Nobody searches for garbage in what the modules made, which stays: each such search takes half a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that start Ray come first, then the other groups: single tests fill what is left of both processes."""
    groups = [_group(item) for item in items]
    for item, group in zip(items, groups, strict=True):
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
    ranked = sorted(zip(items, groups, strict=True), key=lambda one: (one[1] != "ray", not one[1]))
    items[:] = [item for item, _ in ranked]


def _group(item: pytest.Item) -> str:
    """Tests that start Ray, in this process or in another, take turns: two clusters at once fight over the cores."""
    folder = Path(item.path).parent.name
    if folder != "pipeline":
        return GROUPS.get(folder, "")
    used = {*getattr(item, "fixturenames", ()), *vars(getattr(item, "module", None) or object)}
    return "ray" if used & RAY_STARTERS else ""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A long value is named by its length: names of megabytes take seconds to make and to send between processes."""
    return f"{argname}-of-{len(val)}" if isinstance(val, str | bytes) and len(val) > LONGEST_ID else None


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """An empty bucket of an S3 server on loopback; the environment points at it."""
    with s3_server() as uri:
        yield uri


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty MLflow database, to be copied: making one takes seconds."""
    from segdist.tracking import Tracker

    folder = tmp_path_factory.mktemp("empty storage")  # the space in the name must do no harm
    Tracker.at(str(folder)).check()
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One private Ray cluster for all tests that need one in this process: starting it takes many seconds."""
    with connected():
        yield
