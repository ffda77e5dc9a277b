"""YAML from outside is read within bounds of time and memory, or refused with file and line."""

import os
from pathlib import Path

import pytest

from segdist.core.bounded_yaml import compose_yaml, load_yaml, read_yaml
from segdist.core.errors import DataError, SpecError


def aliases(levels: int, *, each: int = 9) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * each)}]" for n in range(1, levels)]
    return "\n".join(lines)


def refusal(content: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        load_yaml(content, "data.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (aliases(30), 7, "at most 200,000 values, those of aliases counted"),
        ("a: &a {" + ", ".join(f"k{n}: 1" for n in range(500)) + "}\nb: {<<: [" + "*a, " * 500 + "]}", 2, "200,000"),
        (aliases(100, each=1), 63, "at most 64 deep"),
        ("[" * 5_000 + "]" * 5_000, 1, "at most 64 deep"),
        ("[" * 500_000, 1, "at most 64 deep"),
        ("\n".join(" " * n + "a:" for n in range(1_000)), 65, "at most 64 deep"),
        ("? " * 5_000, 1, "at most 64 deep"),
        ("a: 1\nb: &b [1, *b]", 2, "must not lead back"),
        ("b: &b {c: {d: *b}}", 1, "must not lead back"),
        ("a: 1\nb: 2\na: 3", 3, "the key `a` must stand once, but stands in line 1 too"),
        ("a: {b: 1, 'b': 2}", 1, "the key `b` must stand once"),
        ("a: " + "9" * 5_000, 1, "a number must have at most 100 characters, but has 5,000"),
        ("a: 1" + ":00" * 200_000, 1, "a number must have at most 100 characters"),
        ("a: !!python/object/apply:os.system [id]", 1, "must be YAML"),
        ("a: 1\n---\nb: 2", 2, "a single document"),
        ("a: [", 2, "must be YAML"),
        ("a: *b", 1, "undefined alias"),
        ("? [a]\n: b", 1, "unhashable key"),
        (b"a: \xe4", 1, "text must be UTF-8, but byte 3 is 0xe4"),
        (b"a: 1\nb: \0", 2, "NUL"),
        ("a: 1".encode("utf-16")[:-1], 1, "text must be UTF-16"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_text_beyond_the_bounds_is_refused_with_its_line(content: str | bytes, line: int, said: str) -> None:
    message = refusal(content)
    assert message.startswith(f"data.yaml:{line}: ")
    assert said in message


@pytest.mark.parametrize("content", ["a: 2026-99-99", "a: 0x_", "a: \x07"])
def test_a_value_that_python_cannot_make_is_refused(content: str) -> None:
    assert "must be YAML" in refusal(content)


def test_a_file_larger_than_any_list_of_classes_is_refused_unread() -> None:
    assert "at most 1,048,576 bytes" in refusal("x" * (1 << 21))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_unicode_encoding_reads_the_same(encoding: str) -> None:
    assert load_yaml("straße: [1, 2.5, no]".encode(encoding), "data.yaml") == {"straße": [1, 2.5, False]}


def test_aliases_and_merges_that_people_write_are_read() -> None:
    text = "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\nlist: [*base, *base]"
    content = load_yaml(text, "data.yaml")
    assert content["other"] == {"a": 1, "b": 3}
    assert content["list"] == [{"a": 1, "b": 2}] * 2


def test_what_was_written_can_be_had_instead_of_its_value() -> None:
    node = compose_yaml("no: 1_000", "data.yaml")
    assert node is not None
    ((key, value),) = node.value
    assert (key.value, value.value) == ("no", "1_000")
    assert compose_yaml("", "data.yaml") is None
    assert load_yaml("", "data.yaml") is None


def test_pipes_devices_and_folders_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path)):
        with pytest.raises(SpecError, match="must be a file, but is a"):
            read_yaml(place, error=SpecError)
    (tmp_path / "good").write_text("a: 1")
    assert read_yaml(str(tmp_path / "good")) == {"a": 1}
