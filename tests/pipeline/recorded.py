"""The command line with a teacher that writes down every image it is asked about; run as a module of its own.

`SEGDIST_TEST_RECORD` names the file: one image a line, in the order in which labelling begins.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from segdist import cli
from segdist.core.plugins import Question
from segdist.core.spec import LabelSpec
from segdist.labelling.consensus import CandidateMask
from segdist.pipeline import label_sets
from segdist.pipeline.label import label
from segdist.pipeline.teacher import Teacher


class Recorded(Teacher):
    """Labels as the teacher does."""

    def __init__(self, file: str, spec: LabelSpec, classes: tuple[str, ...], trained_uri: str) -> None:
        super().__init__(spec, classes, trained_uri)
        self._file = file

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        self._loaded()  # before the line is written, so that a kill soon after it falls into the labelling
        lines = "".join(f"{question.sample.image_id}\n" for question in questions)
        with Path(self._file).open("ab", buffering=0) as record:
            record.write(lines.encode())
        return super().candidates(questions)


if __name__ == "__main__":
    make = functools.partial(Recorded, os.environ["SEGDIST_TEST_RECORD"])
    label_sets.label = functools.partial(label, teacher=make)  # type: ignore[attr-defined] # it is imported there
    cli.app()
