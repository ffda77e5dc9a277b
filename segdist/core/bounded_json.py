"""JSON read within bounds: thousands of brackets overflow the stack, and `[],` times a million takes 30 times its size.

NaN and Infinity are read, as other tools write them; whoever uses a number checks it.
"""

import json
from typing import Any

from segdist.core import storage
from segdist.core.errors import DataError, SegdistError
from segdist.core.text import decode_text

MOST_BYTES = 1 << 28
"""Of a file."""
MOST_MEMORY = 1_600_000_000
"""Bytes that reading may take."""
_MOST_LEVELS = 100
_TOO_DEEP = f"it must be JSON nested at most {_MOST_LEVELS} deep, but is deeper"
_WEIGHTS = {"{": 240, "[": 72, ",": 32, '"': 28}
"""Bytes that CPython takes for a dictionary with a key, a list, a number, and each end of a string."""


def read_json(uri: str, *, error: type[SegdistError] = DataError) -> Any:
    """The content of a JSON file; see `load_json`.

    Raises:
        StorageError: it is missing or cannot be read.
        error: one of the reasons of `load_json`.
    """
    return load_json(storage.read_head(uri, MOST_BYTES + 1), uri, error=error)


def load_json(content: bytes, place: str, *, error: type[SegdistError] = DataError) -> Any:
    """The value that a text stands for.

    Args:
        content: a JSON text in UTF-8, or in UTF-16 or UTF-32 with its mark.
        place: what errors call it.
        error: what is raised.

    Raises:
        error: it is no JSON, or larger or deeper than any annotations are.
    """
    if len(content) > MOST_BYTES:
        raise error(f"{place}: it must be at most {MOST_BYTES:,} bytes, but is larger. Split it.")
    try:
        return parse_json(decode_text(content, place, error=error))
    except ValueError as wrong:
        raise error(f"{place}: {wrong}. Fix it, or write it again.") from None


def parse_json(text: str) -> Any:
    """The same for text.

    Raises:
        ValueError: it is no JSON, or larger or deeper than any annotations are; the message says what it must be.
    """
    memory = len(text) * (3 if text.isascii() else 6) + sum(w * text.count(mark) for mark, w in _WEIGHTS.items())
    if memory > MOST_MEMORY:
        raise ValueError(f"it must fit into {MOST_MEMORY:,} bytes when it is read, but would take {memory:,}")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        raise ValueError(f"it must be JSON, but: {error}") from None
    _check_levels(found)
    return found


def _check_levels(value: object) -> None:
    """Deep values overflow the stack of whoever prints or compares them."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)
