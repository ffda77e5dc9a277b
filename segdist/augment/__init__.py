"""Augmentation: steps by name, recipes of several steps by name, and which images get which."""

from segdist.augment import geometry, library, light, paste  # noqa: F401 - each registers its steps
from segdist.augment.recipes import RECIPES, Recipes, augmentations
from segdist.augment.steps import FOUND, Augmentation, Donor

__all__ = ["FOUND", "RECIPES", "Augmentation", "Donor", "Recipes", "augmentations"]
