"""What Ray Data says while it works for us: nothing, also where it is imported by the first call."""

import logging
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from segdist.pipeline.dataflow import answers, map_items


class _Rows:
    def __init__(self, items: list[dict[str, Any]]) -> None:
        self._items = items

    def map(self, function: Callable[..., Any], **_: object) -> "_Rows":
        return _Rows([function(item) for item in self._items])

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        yield from self._items


class _Ray(ModuleType):
    """Stands for `ray`, whose part `data` is imported when it is first looked at, and then sets levels of its own."""

    @property
    def data(self) -> SimpleNamespace:
        if not hasattr(self, "_data"):
            logging.getLogger("ray.data").setLevel(logging.DEBUG)
            context = SimpleNamespace(get_current=SimpleNamespace)
            self._data = SimpleNamespace(DataContext=context, from_items=lambda items, **_: _Rows(items))
        return self._data


def test_the_first_call_hears_no_more_of_ray_data_than_later_ones() -> None:
    levels: list[int] = []

    @answers
    def work(item: dict[str, int]) -> str:
        levels.append(logging.getLogger("ray.data").level)
        return str(item["n"] + 1)

    ray = _Ray("ray")
    for _ in range(2):
        assert list(map_items(ray, work, [{"n": 1}, {"n": 2}])) == ["2", "3"]
    assert levels == [logging.ERROR] * 4


@pytest.mark.usefixtures("cluster")
def test_an_item_may_take_longer_than_ray_data_waits_by_itself() -> None:
    import ray

    @answers
    def slow(item: dict[str, int]) -> str:
        time.sleep(4)
        return str(item["n"])

    context = ray.data.DataContext.get_current()
    usual, context.execution_no_progress_timeout_s = context.execution_no_progress_timeout_s, 1
    try:
        assert list(map_items(ray, slow, [{"n": 1}])) == ["1"]
    finally:
        context.execution_no_progress_timeout_s = usual
