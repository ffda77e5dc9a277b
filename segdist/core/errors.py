"""What a user can do wrong: one family of errors, each message naming the place and the fix."""

import difflib
from collections.abc import Iterable

from segdist.core.redaction import redact


class SegdistError(Exception):
    """The base of every error a user can fix; the command line prints it without a traceback and exits 2.

    Its message holds no secrets: see `redaction`.

    Attributes:
        option: where `Family.check` raises, the option of the family that is wrong; "" for the family as a whole.
    """

    option: str = ""

    def __init__(self, message: object = "", *, option: str | None = None) -> None:
        super().__init__(redact(str(message)))
        if option is not None:
            self.option = option


class SpecError(SegdistError):
    """A sweep file, an override or an option is wrong."""


class DataError(SegdistError):
    """Images or annotations cannot be used."""


class WeightsError(SegdistError):
    """Model weights are missing or do not fit the model."""

    option = "weights"


class StorageError(SegdistError):
    """A path or bucket cannot be read or written."""


class DivergedError(SegdistError):
    """A loss became infinite or no number.

    Attributes:
        images: ids of those in the batch.
        halvings: times that the learning rate had been halved.
    """

    def __init__(self, message: str, *, images: tuple[str, ...] = (), halvings: int = 0) -> None:
        super().__init__(message)
        self.images, self.halvings = images, halvings


class PreemptedError(SegdistError):
    """A trial was asked to leave its node: what it needs to go on elsewhere is saved."""


class ExportError(SegdistError):
    """A model cannot be written in the form that was asked for."""


class PromotionError(SegdistError):
    """A model cannot be compared with the champion."""


class BackendError(SegdistError):
    """Ray, MLflow or another service does not answer or refuses."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The sentence that ends an "unknown X" error: the nearest right name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(names)}."
