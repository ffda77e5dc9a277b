"""Starting Ray: a crowded machine gets the time it needs."""

from typing import Any

import pytest

from segdist.pipeline.cluster import _patient


def _up_after(questions: int) -> Any:
    asked: list[tuple[str, str]] = []

    def get_node(address: str, node: str) -> str:
        asked.append((address, node))
        if len(asked) < questions:
            raise RuntimeError("no node info")
        return f"{node} at {address}"

    return get_node


def test_the_process_of_this_machine_is_waited_for_and_given_up_in_the_end() -> None:
    assert _patient(_up_after(3))("here", "n1") == "n1 at here"
    with pytest.raises(RuntimeError, match="no node info"):
        _patient(_up_after(99), seconds=0.3)("here", "n1")


def test_what_is_asked_longer_is_what_ray_asks() -> None:
    from ray._private import node, services

    assert "ray._private.services.get_node(" in node.__loader__.get_source(node.__name__)
    assert callable(services.get_node)
