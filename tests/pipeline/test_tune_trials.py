"""Ray Tune is told what to run, and asked for nothing else."""

from typing import Any

from segdist.pipeline.tune_trials import Ends, Problem


def test_tune_keeps_nothing_of_a_result_but_what_it_asks_for_itself() -> None:
    unused: Any = None
    result = {"trial_id": "a", "done": False, "epoch": 3, "val/iou": 0.5, "time_total_s": 1.0, "checkpoint": "x"}
    Ends(unused, unused, unused, Problem(), unused, max_failures=0).on_trial_result(1, [], unused, result=result)
    assert result == {"trial_id": "a", "done": False, "epoch": 3}
