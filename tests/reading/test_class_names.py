"""Which names are one class."""

import pytest

from segdist.core.records import Finding
from segdist.reading.class_names import ClassNames, compared


@pytest.mark.parametrize("name", ["\ufeffcrack", "cra\u00adck", "crack\u200b", "\u2060 Crack "])
def test_marks_that_nobody_sees_make_no_class_of_their_own(name: str) -> None:
    found: list[Finding] = []
    names = ClassNames(found.append)
    assert (names(name, "a.json").lower(), compared(name)) == ("crack", "crack")
    assert [f.code for f in found] == ["class-name-spelling"]
    assert ClassNames(found.append, ["crack"])(name, "a.json") == "crack"


def test_a_name_of_nothing_that_is_seen_is_no_name() -> None:
    found: list[Finding] = []
    ClassNames(found.append)("\u200b\ufeff", "a.json")
    assert "class-name-reserved" in [f.code for f in found]


def test_joiners_that_change_how_a_word_is_written_stay() -> None:
    assert compared("a\u200cb") != compared("ab")
