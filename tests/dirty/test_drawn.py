"""Broken exports, drawn by code: each ends in exactly the findings that its case names, and in no traceback."""

from collections import Counter
from pathlib import Path

import pytest

from segdist.checking.validation import Review, review
from segdist.formats.coco import Format, Options
from tests.dirty.cases import CASES, Case
from tests.dirty.export import Export


def reviewed(folder: Path) -> Review:
    return review(Format(Options(path=str(folder))), "coco")


def test_no_two_cases_have_one_name() -> None:
    assert not [name for name, count in Counter(case.name for case in CASES).items() if count > 1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_export_is_found_out(tmp_path: Path, case: Case) -> None:
    export = Export()
    case.change(export)
    found = reviewed(export.write(tmp_path))
    said = "\n".join(map(str, found.findings))
    assert sorted({f"{f.severity} {f.code}" for f in found.findings}) == sorted(set(case.found)), said
    assert found.ok == (not any(text.startswith("error") for text in case.found))
    assert (found.splits["train"].instances if "train" in found.splits else 0) == case.train, said
    assert all(text in said for text in case.mentions), said
    assert all(f.message and (f.file or f.image) for f in found.findings)
