"""Ray Data as we use it: one item, one task, one result; what a user did wrong on a worker is raised as such here."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from segdist.errors import SegdistError


def map_items(ray: Any, function: Callable[..., Any], items: Sequence[dict[str, Any]], **how: Any) -> Iterator[Any]:
    """The results of `function` (or of the actor class) over the items, as they come.

    Args:
        ray: the connected `ray` module.
        function: takes an item and returns a dict.
        items: small dicts; each becomes a block of its own, so that all workers have something to do.
        how: further arguments of `ray.data.Dataset.map`.

    Raises:
        SegdistError: a worker raised it.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        rows = ray.data.from_items(list(items), override_num_blocks=len(items)).map(function, **how)
        yield from rows.iter_rows()
    except Exception as error:
        own = _own(error)
        if own is None:
            raise
        raise own from error


def _own(error: BaseException | None) -> SegdistError | None:
    """The error of ours inside Ray's wrappers."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None)
        for one in (inner, error):
            if isinstance(one, SegdistError):
                return type(one)(*one.args) if type(one).__module__ == "segdist.errors" else _plain(one)
        error = inner if isinstance(inner, BaseException) else error.__cause__
    return None


def _plain(error: SegdistError) -> SegdistError:
    """Our class instead of the one that Ray derives from it to print a traceback."""
    for known in type(error).__mro__:
        if known.__module__ == "segdist.errors":
            cause = getattr(error, "cause", None)
            return known(*(cause.args if isinstance(cause, SegdistError) else error.args))
    return error
