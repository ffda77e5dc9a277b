"""Starting Ray: a crowded machine gets another chance, a cluster elsewhere is asked once."""

from typing import Any

import pytest

from segdist.errors import BackendError
from segdist.pipeline.cluster import _start


class Crowded:
    """Ray, of which the first attempts to start run out of time."""

    def __init__(self, failures: int) -> None:
        self.failures, self.said = failures, list[str]()

    def init(self, **how: Any) -> None:
        self.said.append(f"init {how['address']}")
        if self.failures:
            self.failures -= 1
            raise Exception("The current node timed out during startup.")

    def shutdown(self) -> None:
        self.said.append("shutdown")


def test_a_start_that_runs_out_of_time_is_tried_again_on_a_clean_table() -> None:
    ray = Crowded(failures=2)
    _start(ray, None)
    assert ray.said == ["init local", "shutdown", "init local", "shutdown", "init local"]
    with pytest.raises(BackendError, match="No Ray cluster answers at this machine: The current node timed out"):
        _start(Crowded(failures=3), None)


def test_a_cluster_that_was_named_is_asked_once() -> None:
    ray = Crowded(failures=1)
    with pytest.raises(BackendError, match=r"answers at 10\.0\.0\.1:6379"):
        _start(ray, "10.0.0.1:6379")
    assert ray.said == ["init 10.0.0.1:6379"]
