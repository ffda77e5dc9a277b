import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdist.core.errors import DataError
from segdist.nets.paligemma.answers import Failure, TokenObject, check_label, in_order, parse, write

BOX = "<loc0010><loc0020><loc0500><loc1023>"
SEGS = "".join(f"<seg{n:03d}>" for n in range(16))


@st.composite
def objects(draw: st.DrawFn) -> TokenObject:
    y1, x1 = draw(st.integers(0, 1022)), draw(st.integers(0, 1022))
    y2, x2 = draw(st.integers(y1 + 1, 1023)), draw(st.integers(x1 + 1, 1023))
    codes = draw(st.none() | st.lists(st.integers(0, 127), min_size=16, max_size=16).map(tuple))
    label = draw(st.from_regex(r"[a-z]+( [a-z0-9]+){0,2}", fullmatch=True))
    return TokenObject(label, (y1, x1, y2, x2), codes)


@given(st.lists(objects(), max_size=5))
def test_what_is_written_is_read_back(found: list[TokenObject]) -> None:
    answer = parse(write(found))
    assert list(answer.objects) == in_order(found)
    assert not answer.unread


@given(
    st.permutations([TokenObject("b", (1, 2, 3, 4)), TokenObject("a", (1, 2, 3, 4)), TokenObject("a", (0, 9, 3, 10))])
)
def test_the_order_of_objects_does_not_depend_on_how_they_came(found: list[TokenObject]) -> None:
    assert [(o.bins[0], o.label) for o in in_order(found)] == [(0, "a"), (1, "a"), (1, "b")]


def test_an_object_is_written_as_big_vision_writes_it() -> None:
    text = str(TokenObject("crack", (10, 20, 500, 1023), tuple(range(16))))
    assert text == f"{BOX}{SEGS} crack"


def test_no_objects_are_an_empty_answer() -> None:
    assert write([]) == ""
    assert parse("") == parse("  \n") == parse(write([]))
    assert not parse("").objects
    assert not parse("").unread


@pytest.mark.parametrize(
    ("text", "failures"),
    [
        (f"{BOX}{SEGS}", [Failure.MALFORMED]),  # no label
        (f"{BOX}{SEGS} ", [Failure.MALFORMED]),
        (f"{BOX}{SEGS[:-8]} crack", [Failure.MALFORMED]),  # 15 mask tokens are no box either
        (f"{BOX}{SEGS}<seg000> crack", [Failure.MALFORMED]),
        (f"{BOX}{SEGS[:-3]}", [Failure.MALFORMED]),  # cut off inside a token
        ("<loc0010><loc0020><loc0500> crack", [Failure.MALFORMED]),
        (f"{BOX}<loc0001> crack", [Failure.MALFORMED]),
        ("<loc0010><loc0020><loc0500><loc1024> crack", [Failure.MALFORMED]),
        (f"{BOX}{SEGS[:-8]}<seg128> crack", [Failure.MALFORMED]),
        (f"{BOX} {SEGS} crack", [Failure.MALFORMED]),
        (f"{SEGS}{BOX} crack", [Failure.MALFORMED]),
        (f"{BOX}crack", [Failure.MALFORMED]),
        (f"{BOX} crack <loc0001>", [Failure.MALFORMED]),
        (f"{BOX} crack;{BOX} crack", [Failure.MALFORMED]),  # a separator without its blanks
        ("crack", [Failure.MALFORMED]),
        ("<loc0500><loc0020><loc0500><loc1023> crack", [Failure.INVALID_BOX]),
        ("<loc0010><loc0900><loc0500><loc0100> crack", [Failure.INVALID_BOX]),
        (f"{BOX}{SEGS} seam", [Failure.UNKNOWN_LABEL]),
        (f"{BOX}{SEGS} crack ; {BOX} cra", [Failure.UNKNOWN_LABEL]),  # cut off inside the label
        (f"{BOX}{SEGS} crack ; <loc0010><lo", [Failure.MALFORMED]),
        (f"{BOX}{SEGS} crack ;", [Failure.MALFORMED]),
    ],
)
def test_what_is_cut_off_or_malformed_is_counted_and_never_guessed(text: str, failures: list[Failure]) -> None:
    answer = parse(text, labels={"crack"})
    assert [u.failure for u in answer.unread] == failures
    assert all(o.label == "crack" and o.codes == tuple(range(16)) for o in answer.objects)


def test_objects_around_a_broken_one_are_read() -> None:
    answer = parse(f"{BOX}{SEGS} crack ; {BOX}{SEGS[8:]} crack ; {BOX} seam")
    assert [o.label for o in answer.objects] == ["crack", "seam"]
    assert answer.objects[0].codes is not None
    assert answer.objects[1].codes is None
    assert len(answer.unread) == 1


@given(st.text(alphabet="<>locseg0123456789 ;crak", max_size=120))
def test_any_text_is_read_or_counted(text: str) -> None:
    answer = parse(text)
    assert len(answer.objects) + len(answer.unread) == (len(text.strip().split(" ; ")) if text.strip() else 0)


@given(st.lists(objects(), min_size=1, max_size=3), st.integers(0, 400))
def test_a_truncated_answer_keeps_its_whole_objects_and_counts_at_most_one_piece(
    found: list[TokenObject], cut: int
) -> None:
    whole = write(found)
    labels = {o.label for o in found}
    answer = parse(whole[:cut], labels=labels)
    assert len(answer.unread) <= 1
    complete = in_order(found)
    boxes = [(o.bins, o.codes) for o in answer.objects]
    assert boxes == [(o.bins, o.codes) for o in complete[: len(boxes)]]


@pytest.mark.parametrize("label", ["", " crack", "crack ", "a;b", "<loc0001>", "a>b", "a\nb", "a  b", "a ; b"])
def test_class_names_that_break_the_grammar_are_refused(label: str) -> None:
    with pytest.raises(DataError, match=re.escape(repr(label))):
        check_label(label)


def test_ordinary_class_names_are_taken() -> None:
    assert [check_label(name) for name in ("crack", "taping area", "Fenêtre-2", "a/b")]


def test_an_object_that_no_answer_can_hold_is_not_built() -> None:
    with pytest.raises(ValueError, match="y1 < y2"):
        TokenObject("crack", (5, 5, 5, 9))
    with pytest.raises(ValueError, match="16 codes"):
        TokenObject("crack", (1, 1, 5, 9), (1, 2))
