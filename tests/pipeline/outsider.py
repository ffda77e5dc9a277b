"""Somebody who is not the user: tries ports and asks whatever answers there for all that Ray can do.

Run as a program: in another network namespace, or with `--nobody` as another user of this machine.
"""

import argparse
import http.client
import importlib
import json
import os
import pkgutil
import re
import socket
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

NOBODY = 65534
_JOB = json.dumps({"entrypoint": "id"})
_REQUESTS: list[tuple[str, str, str | None]] = [
    ("GET", "/", None),
    ("GET", "/metrics", None),
    *(("GET", path, None) for path in ("/api/version", "/api/jobs/", "/nodes?view=summary", "/api/v0/actors")),
    *(
        ("GET", path, None)
        for path in ("/api/v0/runtime_envs", "/api/v0/logs", "/api/serve/applications/", "/timeline")
    ),
    *(("POST", path, _JOB) for path in ("/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env")),
    ("POST", "/get_runtime_envs_info", "{}"),
    ("PUT", "/api/serve/applications/", json.dumps({"applications": []})),
]


def main() -> None:
    """Print what each port gave: `[port, question, answer]`, of open ports only."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nobody", action="store_true")
    parser.add_argument("--host", action="append", required=True)
    parser.add_argument("ports", nargs="+", type=int)
    asked = parser.parse_args()
    if asked.nobody:
        _methods()  # who is nobody cannot read these any more
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    found = [[port, *one] for host in asked.host for port in asked.ports for one in _check_reachable(host, port)]
    json.dump(found, sys.stdout)


def _check_reachable(host: str, port: int) -> Iterator[tuple[str, str]]:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return
    yield "connect", "open"
    yield from _over_http(host, port)
    yield from _over_grpc(host, port)


def _over_http(host: str, port: int) -> Iterator[tuple[str, str]]:
    for method, path, body in _REQUESTS:
        line = http.client.HTTPConnection(host, port, timeout=3)
        try:
            line.request(method, path, body, {"Content-Type": "application/json"})
            answer = line.getresponse()
            yield f"{method} {path}", f"{answer.status} {answer.read(1_000_000).decode(errors='replace')}"
        except (OSError, http.client.HTTPException):  # it speaks another language
            return
        finally:
            line.close()


def _over_grpc(host: str, port: int) -> Iterator[tuple[str, str]]:
    import grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:  # it speaks another language
            return
        for method in _methods():
            try:
                answer: Any = channel.unary_unary(method)(b"", timeout=3)
                yield method, f"OK {answer!r}"
            except grpc.RpcError as error:
                yield method, error.code().name


_UNASKED = {
    # Ends Ray's raylet before it looks at a token, if who asks names no node (Ray 2.60): in reach of who has an account
    # on this machine, and of nobody else.
    "/ray.rpc.syncer.RaySyncer/StartSync",
    "/grpc.health.v1.Health/Watch",  # answers as `Check` does, and then waits
}


@cache
def _methods() -> list[str]:
    """Every method of every service of Ray: those that its programs name, and those that Python knows."""
    import ray
    from ray.core import generated
    from ray.serve import generated as served

    found: set[str] = set()
    for program in ("gcs/gcs_server", "raylet/raylet"):
        binary = Path(ray.__file__).parent.joinpath("core/src/ray", program).read_bytes()
        found |= {name.decode() for name in re.findall(rb"\0(/(?:ray|grpc|opentelemetry)[.]\w[.\w]*/\w+)\0", binary)}
    for home in (generated, served):
        for module in pkgutil.iter_modules(home.__path__, f"{home.__name__}."):
            if module.name.endswith("_pb2"):
                services = importlib.import_module(module.name).DESCRIPTOR.services_by_name.values()
                found |= {f"/{one.full_name}/{method.name}" for one in services for method in one.methods}
    return sorted(found - _UNASKED)


if __name__ == "__main__":
    main()
