"""Values of Python come back as they were from the text that Hydra's grammar reads."""

from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from segdist.core.errors import SpecError
from segdist.sweepfile.overrides import as_override

TEXTS = st.text("ab '\"\\,:=[]{}()$~+é\n\t1.e-", max_size=8)
NAMES = st.text("ab_.9 /-", min_size=1, max_size=6).map(lambda text: f"k{text}k")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)


def read_back(text: str) -> Any:
    return OverridesParser.create().parse_override(text).value()


@given(VALUES)
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    found = read_back(as_override("search.trials", value))
    assert found == value
    assert type(found) is type(value)


def test_numbers_of_numpy_and_tuples_are_taken() -> None:
    assert read_back(as_override("train.lr", np.float64(0.5))) == 0.5
    assert read_back(as_override("search.trials", np.int64(3))) == 3
    assert read_back(as_override("space", {"train.lr": (1e-4, 1e-3)})) == {"train.lr": [1e-4, 1e-3]}


@pytest.mark.parametrize("value", [object(), {"a", "b"}, b"x", np.zeros(3), {3: 1}, {"Dächer": 1}])
def test_what_no_sweep_file_holds_is_refused_with_its_key(value: Any) -> None:
    with pytest.raises(SpecError, match=r"train\.lr"):
        as_override("train.lr", value)
