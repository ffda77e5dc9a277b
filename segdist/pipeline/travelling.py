"""Which variables of the driver's environment its workers have, too, on a cluster that was there before it."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from segdist.core.errors import SpecError
from segdist.core.spec import ResourceSpec

_names = ContextVar("names", default=ResourceSpec().environment)


@contextmanager
def taken_along(names: Sequence[str]) -> Iterator[None]:
    """Whoever connects to a cluster takes these variables along: `resources.environment` of a sweep.

    Commands without a sweep file take what one does that says nothing.

    Raises:
        SpecError: one that is named without `*` is not set.
    """
    if lacking := not_set(names):
        raise SpecError(
            f"`resources.environment` names {', '.join(lacking)}, which the environment of the driver must hold. Set "
            "it where the sweep is driven (on a cluster: on its nodes), or take it out of the list."
        )
    before = _names.set(tuple(names))
    try:
        yield
    finally:
        _names.reset(before)


def not_set(names: Sequence[str]) -> list[str]:
    """What must be in this process's environment, and is not."""
    return [name for name in names if "*" not in name and name not in os.environ]


def travelling() -> dict[str, str]:
    """The variables of this process that its workers are to have, with their values: for memory, never for a log."""
    names = _names.get()
    return {name: value for name, value in os.environ.items() if any(fnmatch.fnmatchcase(name, one) for one in names)}
