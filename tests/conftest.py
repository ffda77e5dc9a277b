"""Fixtures that tests share."""

from collections.abc import Iterator

import pytest

from tests.s3 import s3_server


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """An empty bucket of an S3 server on loopback; the environment points at it."""
    with s3_server() as uri:
        yield uri
