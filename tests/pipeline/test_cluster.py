"""Starting Ray: a crowded machine gets another chance, a cluster elsewhere is asked once."""

from types import ModuleType
from typing import Any, cast

import pytest

from segdist.core.errors import BackendError
from segdist.pipeline.cluster import _start


class Node:
    """Ray's processes on this machine, which may not come up."""

    def __init__(self, said: list[str], *, comes_up: bool) -> None:
        self.said = said
        if not comes_up:
            raise Exception("The current node timed out during startup.")

    def kill_all_processes(self, **_: Any) -> None:
        self.said.append("cleared away")


class Crowded:
    """Ray, of which the first attempts to start run out of time."""

    def __init__(self, failures: int) -> None:
        self.failures, self.said = failures, list[str]()

    def init(self, **how: Any) -> None:
        self.said.append(how["address"])
        self.failures -= 1
        Node(self.said, comes_up=self.failures < 0)


def test_a_start_that_runs_out_of_time_is_tried_again_and_leaves_no_process() -> None:
    ray = Crowded(failures=2)
    _start(cast("ModuleType", ray), None, {})
    assert ray.said == ["local", "cleared away", "local", "cleared away", "local"]
    with pytest.raises(BackendError, match=r"3 attempts: The current node timed out.*\n.*load average"):
        _start(cast("ModuleType", Crowded(failures=3)), None, {})


def test_a_cluster_that_was_named_is_asked_once() -> None:
    ray = Crowded(failures=1)
    with pytest.raises(BackendError, match=r"answers at 10\.0\.0\.1:6379"):
        _start(cast("ModuleType", ray), "10.0.0.1:6379", {})
    assert ray.said == ["10.0.0.1:6379", "cleared away"]
