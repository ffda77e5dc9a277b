"""Values of Python as `key=value` of a command line, which Hydra's grammar reads back to the same values."""

import os
import re
from collections.abc import Mapping

from segdist.core.errors import SpecError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./ -]*")


def as_override(key: str, value: object) -> str:
    """`key=value`; texts in quotes, so that nothing in them is taken for grammar.

    Raises:
        SpecError: the value is of a kind that no sweep file holds.
    """
    return f"{key}={_written(key, value)}"


def _written(key: str, value: object) -> str:
    value = value.item() if hasattr(value, "item") and not getattr(value, "ndim", 1) else value  # a number of NumPy
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        return _quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_name(key, name)}:{_written(key, inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_written(key, inner) for inner in value) + "]"
    raise SpecError(
        f"`{key}` must be a number, a text, true or false, None, or a list or mapping of these, but got "
        f"{type(value).__name__}."
    )


def _name(key: str, name: object) -> str:
    """A key of a mapping, which Hydra takes without quotes only."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise SpecError(
            f"A key inside `{key}` must be a text of plain letters, digits, blanks and `._-/`, but got {name!r}. "
            "Write it into the sweep file."
        )
    return name.replace(" ", "\\ ")


def _quoted(text: str) -> str:
    """Within quotes Hydra reads a backslash as one, but before a quote: there each stands for half of itself."""
    parts = text.split("'")
    ends = [part + "\\" * (len(part) - len(part.rstrip("\\"))) for part in parts]
    return "'" + "\\'".join(ends) + "'"
