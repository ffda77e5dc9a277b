"""Whether the work in hand may compute on a card."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LENT = ContextVar("lent", default=True)


@contextmanager
def lent(*, any_card: bool) -> Iterator[None]:
    """Within the block, and in its thread, the work has a card of this machine or none.

    Ray hides no cards from work that reserves none: without this all such trials would share the first card.

    Args:
        any_card: whether the work reserved cards, or a share of one.
    """
    before = _LENT.set(any_card)
    try:
        yield
    finally:
        _LENT.reset(before)


def has_card() -> bool:
    """Whether there is a card that torch can use, and the work may have it."""
    import torch  # which a driver need not load

    return _LENT.get() and torch.cuda.is_available()
