"""Augmentations by name: one function each, found by its decorator.

Every function takes the example and the generator it draws from, so that the same seed gives the same pictures. One
that pastes takes a donor too: a function that gives another example of the same data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segdist.core.plugins import Example

Donor = Callable[[], Example]
"""Gives another training image, not augmented."""


@dataclass(frozen=True)
class Augmentation:
    """A step of a recipe.

    Attributes:
        name: in `train.augment`.
        function: what it does; with `wants_donor` it takes a third argument, which is None where there is no donor.
        wants_donor: whether it needs other images.
    """

    name: str
    function: Callable[..., Example]
    wants_donor: bool = False

    def __call__(self, example: Example, rng: np.random.Generator, donor: Donor | None = None) -> Example:
        """The example, changed; the one that came stays as it is."""
        more = (donor,) if self.wants_donor else ()
        return self.function(example, rng, *more)


FOUND: dict[str, Augmentation] = {}


def augmentation(function: Callable[..., Example]) -> object:
    """Makes a function available to `train.augment` under its name."""
    FOUND[function.__name__] = Augmentation(function.__name__, function)
    return function


def pasting(function: Callable[..., Example]) -> object:
    """The same for a function that takes a donor."""
    FOUND[function.__name__] = Augmentation(function.__name__, function, wants_donor=True)
    return function
