"""What segdist promises of its own plug-ins holds for these."""

from pathlib import Path

import numpy as np
from PIL import Image

from segdist.testing.families import FamilyContract
from segdist.testing.formats import FormatContract
from segdist.testing.prompts import PromptContract


def draw_corners(folder: Path) -> dict[str, object]:
    """Three images, two of them with a box."""
    for number in range(3):
        Image.fromarray(np.full((24, 32, 3), 80 * number, np.uint8)).save(folder / f"{number}.png")
        if number:
            (folder / f"{number}.corners").write_text("roof 3 4 20 15\n")
    return {"path": str(folder)}


class TestTiny(FamilyContract):
    families = {"tiny": {"wide": {"width": 48}}}


class TestCorners(FormatContract):
    examples = {"corners": draw_corners}


class TestShrunkenBox(PromptContract):
    strategies = ("shrunken_box",)
