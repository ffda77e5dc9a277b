"""No two names become one file or one key of MLflow, and each comes back as it was."""

import posixpath
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segdist.core.escaping import FILES, MLFLOW, Alphabet

several = ("e\u0301", "%3c", ":3c", "%-", ":-", "..", "CON", "//", "\n", "²")
pieces = st.sampled_from([*"<>:%/\\.-_ ?*|\"'aAoOnN0é2f", *several])
names = st.one_of(st.lists(pieces, max_size=8).map("".join), st.text(max_size=8))
ALPHABETS = pytest.mark.parametrize("alphabet", [FILES, MLFLOW], ids=["files", "mlflow"])


def fits(alphabet: Alphabet, text: str) -> bool:
    """Whether a text may stand: by Windows' and POSIX' rules, or by MLflow's own."""
    if alphabet is MLFLOW:
        from mlflow.utils import validation

        rules: Any = validation  # untyped
        rules._validate_metric_name(text)
        rules._validate_param(text, "1")
        rules._validate_tag(text, "1")
        return posixpath.normpath(text) == text
    device = re.fullmatch(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", text, re.DOTALL)
    plain = not re.search(r'[\x00-\x1f<>:"|?*\\/]', text) and text[:1] not in ". " and text[-1:] not in ". "
    return plain and not device and unicodedata.normalize("NFC", text) == text and 0 < len(text.encode()) <= 200


@ALPHABETS
@given(names)
@example("")
@example("\udcff")
@example("com¹.txt")
@example("nul .x")
@example("\u212b")
@example("\u1100\u1161")
def test_a_name_comes_back_as_it_was(alphabet: Alphabet, name: str) -> None:
    text = alphabet.escape(name)
    assert alphabet.unescape(text) == name
    assert fits(alphabet, text)


@ALPHABETS
@given(st.lists(names, min_size=2, max_size=2, unique=True), st.sampled_from(["", "x" * 240, "é" * 120]))
def test_no_two_names_become_one_however_long(alphabet: Alphabet, two: list[str], start: str) -> None:
    one, other = (alphabet.escape(start + name) for name in two)
    assert one != other
    assert fits(alphabet, one)
    assert one == start + two[1] or alphabet.escape(one) != other, "an escaped name is a name like any other"


@pytest.mark.parametrize("name", ["crack", "Fassade, links", "été", "50% open", "a.b-c_d", "#1 (new) & old!"])
def test_names_of_usual_characters_stay_as_they_are(name: str) -> None:
    assert FILES.escape(name) == name
    metric = "val/mask_ap_50/" + "".join(c for c in name if c not in "%,#()&!")
    assert MLFLOW.escape(metric) == metric


@pytest.mark.parametrize(
    ("one", "other"),
    [("<1mm", ">1mm"), ("a/b", "a_b"), ("a.", "a"), ("%3c", "<"), ("x" * 300, "x" * 301), ("é", "e\u0301"), ("", "_")],
)
def test_files_of_two_names_lie_beside_each_other(tmp_path: Path, one: str, other: str) -> None:
    for name in (one, other):
        (tmp_path / FILES.escape(name)).write_text(name)
    assert sorted(file.read_text() for file in tmp_path.iterdir()) == sorted([one, other])


def test_the_devices_of_windows_are_no_files() -> None:
    devices = ["CON", "con.png", "Aux", "PRN.", "nul.tar.gz", "COM1", "lpt9.txt", "COM²"]
    assert not [name for name in devices if FILES.escape(name).casefold() == name.casefold()]
    assert [FILES.escape(name) for name in ("CONCRETE", "com", "icon", "null")] == ["CONCRETE", "com", "icon", "null"]
