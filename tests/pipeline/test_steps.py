"""What the steps of the main job say when they are cut short."""

from pathlib import Path

import pytest

from segdist.core.errors import BackendError
from segdist.pipeline import steps
from segdist.searching import Ledger, Trial
from segdist.searching.cost import Held


@pytest.mark.parametrize("error", [KeyboardInterrupt, BackendError])
def test_a_search_that_is_cut_short_says_what_it_cost_and_how_far_it_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    ledger, done = Ledger(str(tmp_path)), list[str]()
    ledger.write(Trial(number=0, values={}, state="failed", spent=Held(cpu_seconds=30)))
    ledger.write(Trial(number=1, values={}, state="finished", spent=Held(cpu_seconds=90)))
    with pytest.raises(error), steps._counting(done, str(tmp_path), 3):
        raise error("cut short")
    assert done == ["2 of 3 trials"]
    assert "spent     120 CPU-seconds, of which 30 (25 %)" in capsys.readouterr().out
