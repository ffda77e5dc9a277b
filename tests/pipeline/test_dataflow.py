"""What Ray Data says while it works for us: nothing, also where it is imported by the first call."""

import logging
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

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
