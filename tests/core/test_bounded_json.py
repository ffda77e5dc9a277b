"""JSON from outside is read within bounds of memory and depth, or refused with file and reason."""

import math
from pathlib import Path

import pytest

from segdist.core.bounded_json import load_json, read_json
from segdist.core.errors import DataError, SpecError


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested at most 100 deep"),
        (b"[" * 101 + b"]" * 101, "nested at most 100 deep"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested at most 100 deep"),
        (b"[" + b"{}," * 7_000_000 + b"0]", "must fit into 1,600,000,000 bytes when it is read, but would take 1,9"),
        (b"[" + b"[]," * 16_000_000 + b"0]", "must fit into 1,600,000,000 bytes"),
        (b"9" * 5000, "must be JSON, but: Exceeds the limit"),
        (b"{", "a.json: it must be JSON, but: Expecting"),
        (b'{"a":\n\n]', "a.json: it must be JSON, but: Expecting value: line 3"),
        (b"", "a.json: it must be JSON, but: Expecting"),
        (b"\xff{}", "a.json:1: text must be UTF-8"),
        (b'"\x00"', "a.json:1: a text file must not hold NUL"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_json_beyond_the_bounds_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_json(content, "a.json")


def test_json_within_the_bounds_is_read_whatever_its_encoding(tmp_path: Path) -> None:
    value = {"names": ["Fuge", "façade"], "deep": [[[[1.5, None, True]]]]}
    text = '{"names": ["Fuge", "façade"], "deep": [[[[1.5, null, true]]]]}'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a.json").write_bytes(text.encode(encoding))
        assert read_json(str(tmp_path / "a.json")) == value
    assert load_json(b"[" * 100 + b"]" * 100, "a.json")
    assert math.isnan(load_json(b"NaN", "a.json"))
    assert load_json(b"[" + b"1.5," * 1_000_000 + b"1]", "a.json")[-1] == 1


def test_the_error_is_the_one_that_the_caller_names() -> None:
    with pytest.raises(SpecError):
        load_json(b"{", "a.json", error=SpecError)
