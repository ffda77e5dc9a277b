"""A process that died with its node is told from one that died alone."""

import socket
from collections.abc import Iterator

import pytest
import ray
import ray._private.state

from segdist.pipeline import departed
from segdist.pipeline.departed import node_is_gone

ACTOR, NODE = "0123456789abcdef" * 2, "fedcba98" * 7
DIED = f"The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n\tactor_id: {ACTOR}"
AWAY = f"The actor {ACTOR} is unavailable: rpc error 14. The task may or may not have been executed"


@pytest.fixture
def raylet(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Stands for that of the node on which the actor was; Ray counts on it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        node = {"NodeID": NODE, "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
        monkeypatch.delenv("SEGDIST_SESSION", raising=False)
        monkeypatch.setattr(departed, "PATIENCE", 0.1)
        monkeypatch.setattr(ray, "nodes", lambda: [node])
        known = {ACTOR: {"Address": {"NodeID": NODE}}}
        monkeypatch.setattr(ray._private.state, "actors", lambda actor: known.get(actor, {}))
        yield server


@pytest.mark.parametrize("text", [DIED, AWAY])
def test_a_node_whose_raylet_takes_no_calls_is_gone_before_ray_says_so(raylet: socket.socket, text: str) -> None:
    assert not node_is_gone(text)
    raylet.close()
    assert node_is_gone(text)


def test_a_node_that_ray_has_given_up_or_forgotten_is_gone(
    raylet: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [{**node, "Alive": False}])
    assert node_is_gone(DIED)
    monkeypatch.setattr(ray, "nodes", list)
    assert node_is_gone(DIED)


def test_of_an_error_that_names_no_actor_or_one_that_ran_nowhere_no_node_is_gone(raylet: socket.socket) -> None:
    raylet.close()
    assert not node_is_gone("The actor died unexpectedly before finishing this task.")
    assert not node_is_gone(DIED.replace(ACTOR, "f" * 32))


def test_of_a_cluster_of_our_own_no_node_goes(raylet: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    raylet.close()
    monkeypatch.setenv("SEGDIST_SESSION", "folder")
    assert not node_is_gone(DIED)
