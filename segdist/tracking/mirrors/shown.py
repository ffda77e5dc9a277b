"""What another tracker is told of a trial."""

from collections.abc import Mapping
from dataclasses import dataclass

from segdist.tracking.values import Measured


@dataclass(frozen=True)
class Shown:
    """A trial as the ledger knows it now.

    Attributes:
        name: of the trial, unlike that of any other in the sweep; letters, digits and `-`.
        title: what tells it from the others, in a few words.
        params: by dotted key; JSON values.
        epochs: all that count, from the first on; metrics are finite.
        has_ended: whether nothing more will come.
        reason: why it ended, where there is more to say.
    """

    name: str
    title: str
    params: Mapping[str, object]
    epochs: tuple[Measured, ...]
    has_ended: bool
    reason: str = ""
