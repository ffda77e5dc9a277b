"""Text files as people save them."""

from pathlib import Path

import pytest

from segdist.core import storage
from segdist.core.errors import StorageError
from segdist.core.records import Finding
from segdist.core.text import NotTextError, Text, counted, decode_text, guess_text, lines
from segdist.reading.text_files import read_text

NAME = "façade\nJoint, große Fuge\n"
MARKED = {"utf-8": "utf-8", "utf-8-sig": "utf-8-sig", "utf-16": "utf-16", "utf-32": "utf-32"}


@pytest.mark.parametrize("encoding", MARKED)
def test_text_that_says_how_it_is_encoded_is_read_without_its_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(NAME.encode(encoding))
    assert storage.read_text(str(tmp_path / "classes.txt")) == NAME
    assert guess_text(NAME.encode(encoding)) == Text(NAME, MARKED[encoding])


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_of_either_order_has_no_mark_left(mark: bytes) -> None:
    body = "façade".encode("utf-16-le" if mark == b"\xff\xfe" else "utf-16-be")
    assert decode_text(mark + body, "a.txt") == "façade"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp1252"])
def test_text_of_other_tools_is_read_in_its_encoding_and_reported(encoding: str, tmp_path: Path) -> None:
    file, findings = tmp_path / "classes.txt", list[Finding]()
    file.write_bytes(NAME.encode(encoding))
    assert read_text(str(file), findings.append) == NAME
    assert [(f.code, f.file) for f in findings] == [("encoding-repaired", str(file))]
    assert encoding in findings[0].message


def test_a_byte_that_windows_leaves_out_is_read_as_latin_1() -> None:
    assert guess_text(b"a\x81\xe7") == Text("a\x81ç", "latin-1")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_our_own_files_in_another_encoding_are_refused_with_place_and_fix(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_bytes(NAME.encode(encoding))
    with pytest.raises(StorageError, match=r"sweep\.yaml:\d: (text must be UTF-8.*iconv|.*NUL)"):
        storage.read_text(str(tmp_path / "sweep.yaml"))


@pytest.mark.parametrize("content", [b"crack\x00seam", b"\x00" * 64, b"\x89PNG\x00\x01", b"\xff\xfe\x00"])
def test_what_is_no_text_is_named(content: bytes) -> None:
    with pytest.raises(NotTextError, match="it must be text"):
        guess_text(content)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_lines_end_as_on_any_system(end: str) -> None:
    assert lines(f"a b{end}{end}c\x0cd{end}") == ["a b", "", "c\x0cd"]
    assert lines(f"a{end}b") == ["a", "b"]
    assert lines("") == []


@pytest.mark.parametrize(
    ("amount", "words", "said"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2000, ("box",), "2,000 boxes"),
        (3, ("class",), "3 classes"),
        (1, ("image is", "images are"), "1 image is"),
        (2, ("image is", "images are"), "2 images are"),
        (0.5, ("second",), "0.5 seconds"),
        (1.0, ("second",), "1 second"),
    ],
)
def test_an_amount_agrees_with_what_it_counts(amount: float, words: tuple[str, ...], said: str) -> None:
    assert counted(amount, *words) == said
