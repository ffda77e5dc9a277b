"""An S3 server on loopback."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from segdist.core.environment import variables


@contextmanager
def s3_server() -> Iterator[str]:
    """Runs moto's server and points the environment at it; gives the URI of an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    endpoint = f"http://127.0.0.1:{port}"
    values = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        with variables(values):
            boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="segdist-tests")
            yield "s3://segdist-tests"
    finally:
        server.stop()
