"""A sweep that came to its end is asked nothing, unless there is something to do for it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from segdist.core import storage
from segdist.core.spec import SweepSpec
from segdist.pipeline.run import DONE, _asked, _bounds, _Done, _done
from tests.searching.sweeps import sweep

GRID = {"train.lr": [1e-3, 2e-3], "train.loss.dice": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("before", "now", "is_done"),
    [
        ({"trials": 8}, {"trials": 8}, True),
        ({"trials": 8}, {"trials": 6}, True),
        ({"trials": 8}, {"trials": 9}, False),
        ({"trials": 8}, {"trials": 8, "seed": 3, "concurrency": 1}, True),
        ({}, {"constraints": {"model/bytes": 1e6}}, False),
        ({"constraints": {"model/bytes": 1e6}}, {"constraints": {"model/bytes": 2e6}}, False),
        ({"constraints": {"model/bytes": 1e6}}, {"constraints": {"model/bytes": 1e6}}, True),
        ({}, {"objectives": ["model/bytes"]}, False),
        ({"objectives": ["model/bytes"]}, {"objectives": ["model/bytes"]}, True),
        ({"objectives": ["model/bytes"]}, {}, False),
        ({}, {"warm_start": "walls"}, True),
        ({}, {"confirm": {"trials": 2}}, False),
        ({"confirm": {"trials": 2}}, {"confirm": {"trials": 2, "seeds": 3}}, False),
        ({"confirm": {"trials": 2}}, {"confirm": {"trials": 2, "seeds": 2}}, True),
        ({"confirm": {"trials": 2}}, {}, False),
        ({"sampler": "grid", "space": GRID}, {"sampler": "grid", "space": GRID}, True),
        ({"sampler": "grid", "space": GRID}, {"sampler": "grid", "space": {**GRID, "train.lr": [1e-3, 3e-3]}}, False),
    ],
)
def test_what_makes_a_sweep_that_was_done_go_on(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], is_done: bool
) -> None:
    end = _Done("run", _asked(sweep(**before)), "said")
    storage.write_json(storage.join(str(tmp_path), DONE), asdict(end))
    assert (_done(str(tmp_path), sweep(**now)) == end) is is_done


def test_the_end_of_a_sweep_that_was_done_before_trials_were_trained_again_still_counts(tmp_path: Path) -> None:
    asked = {key: value for key, value in _asked(sweep()).items() if key != "confirm"}
    storage.write_json(storage.join(str(tmp_path), DONE), asdict(_Done("run", asked, "said")))
    assert _done(str(tmp_path), sweep())
    assert not _done(str(tmp_path), sweep(confirm={"trials": 2}))


@pytest.mark.parametrize(
    ("before", "now", "is_done"),
    [
        ({"hours": 1}, {"hours": 1}, True),
        ({"hours": 1}, {"hours": 0.5}, True),
        ({"hours": 1}, {"hours": 2}, False),
        ({"hours": 1}, None, False),
        ({"hours": 2, "money": 9}, {"hours": 2}, False),
        ({"hours": 2}, {"hours": 2, "money": 1}, True),
        ({"money": 9}, {"hours": 9}, False),
    ],
)
def test_a_sweep_that_its_budget_cut_off_goes_on_with_a_larger_one(
    tmp_path: Path, before: dict[str, float], now: dict[str, float] | None, is_done: bool
) -> None:
    def priced(budget: dict[str, float] | None) -> SweepSpec:
        spec = sweep(trials=8).model_dump()
        spec["resources"]["price_per_hour"], spec["search"]["budget"] = 3.0, budget
        return SweepSpec.model_validate(spec)

    cut_off = _Done("run", _asked(priced(before)), "said", _bounds(priced(before)))
    storage.write_json(storage.join(str(tmp_path), DONE), asdict(cut_off))
    assert (_done(str(tmp_path), priced(now)) is not None) is is_done
    storage.write_json(storage.join(str(tmp_path), DONE), asdict(_Done("run", _asked(priced(before)), "said")))
    assert _done(str(tmp_path), priced(now)) is not None, "it came to its end within its budget"
