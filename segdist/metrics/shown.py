"""How a metric is shown, and in which tables: declared beside its formula, so that no table keeps a list of its own."""

from dataclasses import dataclass
from typing import Literal

Place = Literal["leaderboard", "card", "classes", "study", "images", "spread", "intervals"]
"""Where a metric's value may stand:

- leaderboard: the trials of a sweep, and its kept models, side by side;
- card: the model card;
- classes: the classes of one evaluation, side by side;
- study: the models that one training kept on the way;
- images: every single image of an evaluation; only of metrics that add up over images, like the next two;
- spread: each class's values over single images, their mean and percentiles;
- intervals: confidence intervals of the whole, of classes and of groups.
"""


@dataclass(frozen=True)
class Shown:
    """How people read a value.

    Attributes:
        title: a heading, without the unit.
        unit: that it is shown in; "" for a share of 1.
        digits: after the point.
        lower_is_better: for errors, distances and costs: a search minimises them.
        places: where it is shown without being asked for.
        factor: from the value as it is to the one in `unit`.
    """

    title: str
    unit: str = ""
    digits: int = 3
    lower_is_better: bool = False
    places: tuple[Place, ...] = ()
    factor: float = 1.0

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title} {self.unit}".rstrip()

    def text(self, value: float | None) -> str:
        """The value as people read it; empty for none."""
        return "" if value is None else f"{value * self.factor:.{self.digits}f}"
