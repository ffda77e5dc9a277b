"""Fixtures that tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from segdist.pipeline.cluster import connected
from tests.s3 import s3_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray take turns: two clusters at once would fight over the cores and the agent's port."""
    for item in items:
        if "pipeline" in Path(item.path).parts:
            item.add_marker(pytest.mark.xdist_group("ray"))


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
