"""Fixtures that tests share."""

from collections.abc import Iterator

import pytest

from segdist.pipeline.cluster import connected
from tests.s3 import s3_server


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
