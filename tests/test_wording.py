"""What people read counts one thing as one."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

COUNTED = "images|instances|annotations|masks|trials|classes|samples|parts|tasks|labels|shards|results|boxes|pictures"
SEVERAL = re.compile(rf"^ (more |new |single )?({COUNTED})\b(?!/)")
MORE_THAN_ONE = {"len(classes)"}
"""Amounts that are named because they are too many."""


def texts() -> Iterator[tuple[str, ast.JoinedStr | ast.Constant]]:
    """Every text of the package with its place, but for docstrings."""
    for file in sorted(Path("segdist").rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in alone:
                yield f"{file}:{node.lineno}", node


def test_no_message_leaves_the_number_to_the_reader() -> None:
    said = [(place, node.value) for place, node in texts() if isinstance(node, ast.Constant)]
    assert len(said) > 5_000
    assert not [
        (place, text) for place, text in said if isinstance(text, str) and re.search(r"[a-z]\((e?s|ies)\) ", text)
    ]


def test_an_amount_is_written_by_the_helper_that_knows_one_from_several() -> None:
    found, seen = [], 0
    for place, node in texts():
        for amount, text in pairwise(node.values if isinstance(node, ast.JoinedStr) else ()):
            if isinstance(amount, ast.FormattedValue) and isinstance(text, ast.Constant):
                seen += 1
                what = ast.unparse(amount.value)
                if SEVERAL.match(str(text.value)) and what not in MORE_THAN_ONE and not what.isupper():
                    found.append((place, what, text.value))
    assert seen > 1_000
    assert not found
