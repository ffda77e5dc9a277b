"""Finding codes: every one is declared, and none can be made up."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from segdist.core.records import Severity
from segdist.reading.codes import CODES, declared, finding
from segdist.reading.geometry import UnusableAnnotation

PACKAGE = Path(__file__).parents[2] / "segdist"
MAKERS = {"reading/codes.py", "datasets/shards.py"}
"""Where a `Finding` may be built: `finding` itself, and what was stored as JSON."""


def _calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name:
                yield file.relative_to(PACKAGE).as_posix(), node


def test_findings_are_built_in_one_place_that_knows_every_code() -> None:
    assert {file for file, _ in _calls("Finding")} == MAKERS


@pytest.mark.parametrize("name", ["finding", "UnusableAnnotation", "_find", "_losses", "_finding", "_skipped"])
def test_every_code_that_is_written_anywhere_is_declared(name: str) -> None:
    first = [(f, c.args[0]) for f, c in _calls(name) if c.args]
    written = [(f, a.value) for f, a in first if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    assert written
    assert not [(file, code) for file, code in written if "-" in code and code not in CODES]


def test_a_code_that_is_not_declared_cannot_be_used() -> None:
    assert finding("image-missing", "gone").severity is Severity.ERROR
    assert finding("image-missing", "gone", severity=Severity.WARNING).severity is Severity.WARNING
    for make in (lambda: finding("no-such-code", "x"), lambda: declared("no-such-code")):
        with pytest.raises(ValueError, match="no-such-code"):
            make()
    with pytest.raises(ValueError, match="no-such-code"):
        raise UnusableAnnotation("no-such-code", Severity.ERROR, "x")
