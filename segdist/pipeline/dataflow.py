"""Ray Data as we use it: one item, one task, one text back; errors of ours on a worker are raised here as such."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType

from segdist.core import errors
from segdist.core.errors import SegdistError
from segdist.pipeline.backend_lines import core_lines_hidden


def answers(work: Callable[..., str]) -> Callable[..., dict[str, str]]:
    """Makes a function (or the `__call__` of an actor) that returns a text fit for `map_items`.

    An error of ours is part of the answer: raised, it would lose its class and come back as pages of Ray's traceback.
    """

    @functools.wraps(work)
    def answer(*arguments: object) -> dict[str, str]:
        try:
            return {"text": work(*arguments), "error": "", "message": ""}
        except SegdistError as error:
            kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == errors.__name__)
            return {"text": "", "error": kind, "message": str(error)}

    return answer


def map_items(
    ray: ModuleType, function: Callable[..., object], items: Sequence[Mapping[str, object]], **how: object
) -> Iterator[str]:
    """The answers to the items, as they come.

    Args:
        ray: the connected `ray` module.
        function: a function or actor class whose call is decorated with `answers`.
        items: small dicts; each becomes a block of its own, so that all workers have something to do.
        how: further arguments of `ray.data.Dataset.map`.

    Raises:
        SegdistError: a worker met it.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # half an hour by default: an item may take longer on a slow machine
    # Its plans and metrics are no news to a user. After the line above: when it is imported, it sets levels of its own.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = ray.data.from_items(list(items), override_num_blocks=len(items)).map(function, **how)
    with core_lines_hidden():
        for row in rows.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            yield row["text"]
