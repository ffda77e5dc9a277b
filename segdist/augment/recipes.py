"""Recipes: several augmentations under one name, and which images get which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segdist.augment.steps import FOUND, Augmentation
from segdist.core.errors import SpecError, did_you_mean
from segdist.core.records import Sample

RECIPES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "light": ("flip", "brightness"),
    "lighting": ("flip", "brightness", "contrast", "gamma", "shadow"),
    "camera": ("flip", "brightness", "colour", "motion_blur", "noise", "compression"),
    "from_above": ("flip", "flip_vertical", "rotate90", "brightness", "colour"),
    "thin_structures": ("flip", "crop", "brightness", "contrast", "gamma"),  # enlarges, never shrinks or blurs
    "viewpoint": ("flip", "rotate", "perspective", "crop", "brightness"),
    "multi_scale": ("flip", "crop", "scale", "brightness"),
    "paste": ("flip", "copy_paste", "brightness"),
    "strong": ("flip", "copy_paste", "rotate", "crop", "brightness", "contrast", "hue", "noise", "compression"),
}
"""The steps of each recipe, in order."""


def augmentations(names: str | Sequence[str]) -> list[Augmentation]:
    """The steps of these names, each of a step or a recipe, in this order.

    Raises:
        SpecError: there is no step or recipe of a name.
    """
    found: list[Augmentation] = []
    for name in [names] if isinstance(names, str) else names:
        if name not in FOUND and name not in RECIPES:
            raise SpecError(
                f"There is no augmentation `{name}`. {did_you_mean(name, [*FOUND, *RECIPES])} "
                f"Recipes: {', '.join(RECIPES)}."
            )
        found += [FOUND[step] for step in RECIPES.get(name, (name,))]
    return found


@dataclass(frozen=True)
class Recipes:
    """Which images get which steps: those of the image's group, else of the first class here that it shows.

    Attributes:
        usual: names for all other images.
        by_class: names by class.
        by_group: names by the `group` of a source.
    """

    usual: str | Sequence[str] = ()
    by_class: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    by_group: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def of(self, sample: Sample) -> list[Augmentation]:
        """The steps for one image."""
        group = sample.group.rpartition("/")[2]  # several sources number their groups: `1/night`
        labels = {i.label for i in sample.instances}
        chosen = (names for label, names in self.by_class.items() if label in labels)
        return augmentations(self.by_group[group] if group in self.by_group else next(chosen, self.usual))

    def check(self, classes: Sequence[str]) -> None:
        """See that all names are known.

        Raises:
            SpecError: a step, a recipe or a class is not known.
        """
        for names in (self.usual, *self.by_class.values(), *self.by_group.values()):
            augmentations(names)
        for name in self.by_class:
            if classes and name not in classes:
                raise SpecError(f"`augment_classes` names `{name}`, which is no class. {did_you_mean(name, classes)}")
