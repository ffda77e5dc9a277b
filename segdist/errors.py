"""What a user can do wrong: one family of errors, each message naming the place and the fix."""

import difflib
from collections.abc import Iterable


class SegdistError(Exception):
    """The base of every error a user can mend; the command line prints it without a traceback and exits 2."""


class SpecError(SegdistError):
    """A sweep file, an override or an option is wrong."""


class DataError(SegdistError):
    """Images or annotations cannot be used."""


class WeightsError(SegdistError):
    """Model weights are missing or do not fit the model."""


class StorageError(SegdistError):
    """A path or bucket cannot be read or written."""


class BackendError(SegdistError):
    """Ray, MLflow or another service does not answer or refuses."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence that ends an "unknown X" error: the nearest right name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(names)}."
