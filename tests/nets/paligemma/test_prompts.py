import pytest

from segdist.core.errors import DataError, SpecError
from segdist.nets.paligemma.prompts import questions


def test_each_class_is_asked_for_by_its_name_and_synonyms() -> None:
    found = questions("segment {label}", {"crack": ("fissure",)}, ("crack", "seam"))
    assert found == {"crack": ("segment crack", "segment fissure"), "seam": ("segment seam",)}


@pytest.mark.parametrize(
    ("template", "synonyms", "message"),
    [
        ("segment", {}, r"must hold \{label\}"),
        ("", {}, r"must hold \{label\}"),
        ("segment {label}", {"carck": ("x",)}, "carck, no class of the data: crack"),
        ("segment {label}", {"crack": (" ",)}, "must not be empty"),
    ],
)
def test_prompts_that_ask_nothing_are_refused(template: str, synonyms: dict[str, tuple[str]], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        questions(template, synonyms, ("crack",))


def test_a_class_that_would_break_the_answer_is_refused() -> None:
    with pytest.raises(DataError, match="Rename the class"):
        questions("segment {label}", {}, ("crack ; seam",))
