"""Fixtures that tests share."""

import signal
from collections.abc import Iterator
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

# Folders whose tests stay in one process. Those that start Ray take turns: two clusters at once would fight over the
# cores and the agent's port. The others share a fixture that is expensive to make.
GROUPS = {
    "pipeline": "ray",
    "commands": "ray",
    "engine": "engine",
    "exporting": "engine",
    "pages": "tracking",
    "tracking": "tracking",
}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that start Ray come first, so that the other process has all the rest to fill its time with."""
    for item in items:
        if group := GROUPS.get(Path(item.path).parent.name):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: GROUPS.get(Path(item.path).parent.name) != "ray")


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """An empty bucket of an S3 server on loopback; the environment points at it."""
    with s3_server() as uri:
        yield uri


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One private Ray cluster for all tests that need one in this process: starting it takes many seconds."""
    with connected():
        yield
