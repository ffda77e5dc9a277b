"""Ray's calls, answered in this process: what a worker does is tested without starting a cluster."""

from collections.abc import Callable, Sequence
from typing import Any


class RayError(Exception):
    """What a worker that failed raises at its driver."""


class Inline:
    """Stands for the `ray` module: a remote call runs when its result is asked for."""

    class exceptions:  # noqa: N801 - ray's own name
        RayError = RayError

    @staticmethod
    def nodes() -> list[dict[str, object]]:
        return [{"Alive": True, "NodeManagerAddress": "127.0.0.1", "Resources": {"CPU": 2.0}}]

    @staticmethod
    def cluster_resources() -> dict[str, float]:
        return {"CPU": 2.0}

    @staticmethod
    def remote(function: Callable[..., Any]) -> "_Remote":
        return _Remote(function)

    @staticmethod
    def wait(running: Sequence[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return list(running[:num_returns]), list(running[num_returns:])

    @staticmethod
    def get(asked: Callable[[], Any]) -> Any:
        try:
            return asked()
        except Exception as error:
            raise RayError(f"worker failed\n{type(error).__name__}: {error}") from error


class _Remote:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.asked: dict[str, float] = {}

    def options(self, **resources: float) -> "_Remote":
        self.asked = resources
        return self

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        return lambda: self._function(*arguments)
