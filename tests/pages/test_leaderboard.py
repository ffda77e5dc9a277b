import io
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from segdist.pages import Leaderboard, as_json, print_leaderboard, why_nothing
from segdist.pages.leaderboard import number
from segdist.searching.budget import OVER
from segdist.tracking import names


def printed(board: Leaderboard) -> str:
    out = io.StringIO()
    print_leaderboard(board, Console(file=out))
    return out.getvalue()


def test_json_has_the_promised_shape_best_first_and_no_nan(board: Leaderboard) -> None:
    content = json.loads(json.dumps(as_json(board), allow_nan=False))
    assert list(content) == ["sweep", "parent_run_id", "trials", "best", "confirmed"]
    assert all(list(t) == ["run_id", "status", "params", "metrics", "seconds"] for t in content["trials"])
    scores = [t["metrics"]["val/iou"] for t in content["trials"] if "val/iou" in t["metrics"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 9
    assert content["best"] == content["trials"][0]["run_id"]
    assert content["parent_run_id"] == board.sweep.run_id
    assert content["trials"][0]["params"]["train.lr"] == board.trials[0].params["train.lr"]


def test_the_table_shows_searched_values_the_untuned_trial_and_what_was_won(board: Leaderboard) -> None:
    text = printed(board)
    assert "rank" in text
    assert "train.batch_size" not in text
    assert "0 untuned" in text
    assert "stopped early" in text
    assert board.best is not None
    gain = board.gain(board.best)
    assert gain is not None
    assert f"{gain:+.3f} against the untuned trial" in text
    assert "test   iou 0.710" in text
    assert "spent  617 GPU-seconds, of which 154 (25 %) on trials that were stopped, failed" in text


def test_a_trial_that_breaks_a_constraint_is_infeasible_and_never_wins(board: Leaderboard) -> None:
    bounds = {"runtime/latency_p50_ms": 50.0, "model/bytes": 1e6}
    spec = {**board.sweep.spec, "search": {"constraints": bounds}}
    first, *others = board.trials
    slow = replace(first, broken={"runtime/latency_p50_ms": 11.25})
    some = Leaderboard(replace(board.sweep, spec=spec), (slow, *others))
    assert some.best is others[0]
    text = printed(some)
    assert f"best   trial {others[0].number}" in text
    assert f"infeasible  trial {first.number}: runtime/latency_p50_ms is 11.25 above 50" in text
    assert as_json(some)["best"] == others[0].run_id
    assert some.ended(slow) == "infeasible"

    unknown = replace(others[0], broken={"runtime/latency_p50_ms": None, "model/bytes": 5.0})
    large = replace(others[1], broken={"model/bytes": 2e6})
    none = Leaderboard(replace(board.sweep, spec=spec), (slow, unknown, large))
    assert none.winner is None
    assert not none.found_nothing
    nearest = f"The nearest is trial {first.number}: runtime/latency_p50_ms is 11.25 above 50."
    assert f"No trial meets `search.constraints`. {nearest}" in printed(none)
    assert "latency_p50_ms was not measured" in none.broken(unknown)


def test_of_several_objectives_the_trials_that_none_beats_are_on_the_front(board: Leaderboard) -> None:
    assert not board.front
    assert "front" not in printed(board)
    measured = {  # number: score, bytes
        0: (0.5, 1e6), 1: (0.9, 8e6), 2: (0.8, 8e6), 3: (0.7, 2e6), 4: (0.4, 1e6), 5: (0.95, 1e6), 6: (0.99, 1e5),
    }  # fmt: skip
    trials = [
        replace(
            board.trials[0],
            number=number,
            metrics={"val/iou": score, "model/bytes": size},
            broken={"model/bytes": 1.0} if number == 5 else {},
            status="KILLED" if number == 6 else "FINISHED",
        )
        for number, (score, size) in measured.items()
    ]
    unknown = replace(trials[0], number=7, metrics={"val/iou": 0.97})
    sweep = replace(board.sweep, spec={**board.sweep.spec, "search": {"objectives": ["model/bytes"]}})
    some = Leaderboard(sweep, (*trials, unknown))
    assert [t.number for t in some.front] == [0, 1, 3]
    assert "front  trials 0, 1, 3: beaten by no other at val/iou, size MB at once" in printed(some)
    rows = [line.split()[:3] for line in printed(some).splitlines() if " front" in line and line.split()[0].isdigit()]
    assert {row[0] for row in rows} == {"0", "1", "3"}
    assert as_json(some)["front"] == [some.trials[0].run_id] * 3
    none = Leaderboard(sweep, (unknown,))
    assert "front  none: model/bytes was measured of no trial" in printed(none)


@pytest.mark.parametrize(
    ("close", "said"),
    [
        ([], "is better than the next best 2 trials, beyond chance; against"),
        ([3], "is not distinguishable from trial 3; against"),
        ([3, 5], "is not distinguishable from trials 3, 5; against"),
    ],
)
def test_how_clearly_the_best_is_the_best_is_said_as_long_as_it_is(
    board: Leaderboard, close: list[int], said: str
) -> None:
    assert board.best
    found = {"best": board.best.number, "compared": [3, 5], "close": close, "chance": 0.973, "images": 20}
    tags = {**board.sweep.tags, names.STANDING: json.dumps(found)}
    shown = replace(board, sweep=replace(board.sweep, tags=tags))
    assert f"On 20 validation images trial {board.best.number} {said}" in printed(shown)
    assert "against the next best 2 trials it is the best in 97 % of resamplings" in printed(shown)
    other = json.dumps({**found, "best": board.best.number + 1})
    assert replace(board, sweep=replace(board.sweep, tags={names.STANDING: other})).standing == "", (
        "another one wins now"
    )


def test_scores_against_a_teachers_masks_alone_are_said_to_be_that(board: Leaderboard) -> None:
    assert board.sweep.dataset is not None
    splits = {"val": {"instances": 9, "masks": 0}, "test": {"instances": 4, "masks": 0}}
    bare = replace(board.sweep.dataset, profile={**board.sweep.dataset.profile, "splits": splits})
    spec = {**board.sweep.spec, "label": {"teacher": {"family": "classical"}}}
    said = r"note   No object of val and test has a mask of a person"
    assert said in " ".join(
        printed(Leaderboard(replace(board.sweep, spec=spec, dataset=bare), board.trials)).split("\n")
    )
    assert "a mask of a person" not in printed(board)
    splits["val"]["masks"] = 1
    of_test = Leaderboard(replace(board.sweep, spec=spec, dataset=bare), board.trials).against_the_teacher
    assert of_test.startswith("No object of test has")
    assert "name another teacher in `label.teacher`" in of_test
    unlabelled = Leaderboard(replace(board.sweep, spec={**spec, "label": None}, dataset=bare), board.trials)
    assert not unlabelled.against_the_teacher


def test_keys_that_only_some_trials_have_stand_together_and_no_line_is_broken(board: Leaderboard) -> None:
    space = {
        "model.family": {"choices": ["mask2former", "rf_detr"]},
        "model.mask2former.num_queries": {"low": 10, "high": 90, "when": {"model.family": "mask2former"}},
        "model.rf_detr.num_queries": {"low": 10, "high": 90, "when": {"model.family": "rf_detr"}},
        "train.adapter.rank": {"choices": [4, 8], "when": {"model.family": "rf_detr"}},
    }
    first, second, *_ = board.trials
    one = {"model.family": "mask2former", "model.mask2former.num_queries": 20}
    other = {"model.family": "rf_detr", "model.rf_detr.num_queries": 30, "train.adapter.rank": 4}
    trials = (replace(first, params=first.params | one), replace(second, params=second.params | other))
    sweep = replace(board.sweep, spec={**board.sweep.spec, "space": space})
    heading, *rows = printed(Leaderboard(sweep, trials)).splitlines()[1:4]
    assert heading.split()[-2:] == ["family", "further"]
    assert rows[0].split()[-2:] == ["mask2former", "num_queries=20"]
    assert rows[1].split()[-3:] == ["rf_detr", "num_queries=30", "rank=4"]


def test_user_text_is_no_markup_in_the_terminal(board: Leaderboard) -> None:
    assert "<script>alert('roofs')</script>" in printed(board)


def test_the_winner_is_the_best_trial_that_ended_well(board: Leaderboard) -> None:
    first, second = board.trials[:2]
    killed = Leaderboard(board.sweep, (replace(first, status="KILLED"), *board.trials[1:]))
    assert killed.best is second
    assert Leaderboard(board.sweep, ()).best is None
    assert "No trial has a score yet" in printed(Leaderboard(board.sweep, ()))


def test_a_trial_of_several_phases_ended_early_only_if_it_missed_epochs_of_them(board: Leaderboard) -> None:
    trial = replace(board.trials[0], status="FINISHED", epochs=8)
    phases = [{"epochs": 3, "lr": 0.1}, {"epochs": 5, "lr": 0.01}]
    for planned, ended in ((phases, "finished"), ([*phases, {"epochs": 1}], "stopped early"), ([], "finished")):
        params = {**trial.params, "train.phases": planned, "train.epochs": 8}
        assert board.ended(replace(trial, params=params)) == ended
    assert board.ended(replace(trial, params={})) == "finished"
    longer = {**trial.params, "train.phases": [], "train.epochs": 9}
    assert board.ended(replace(trial, params=longer, reason=OVER)) == "cut off by the budget"


def test_measures_are_columns_in_their_units_and_families_without_objects_are_named(board: Leaderboard) -> None:
    measures = {
        "val/mask_ap": 0.4567, "val/boundary_iou": 0.3, "runtime/latency_p50_ms": 12.34,
        "model/parameters": 1_230_000.0,        "model/bytes": 4.9e6,
    }  # fmt: skip
    first, *others = board.trials
    params = {**first.params, "model.family": "unet_cbam"}
    text = printed(Leaderboard(board.sweep, (replace(first, metrics=first.metrics | measures, params=params), *others)))
    for heading in ("mask AP", "boundary IoU", "latency ms", "parameters M", "size MB"):
        assert heading in text.splitlines()[1]
    row = text.splitlines()[2].split()
    assert [row[k] for k in range(len(row)) if row[k] in ("0.300", "0.457", "12.3", "1.23", "4.90")] == [
        "0.300", "0.457", "12.3", "1.23", "4.90",
    ]  # fmt: skip
    said = "AP and PQ count objects one by one; unet_cbam gives one region a class and image"
    assert said in text
    apart = replace(first, metrics=first.metrics | measures, params={**params, "evaluate.post.instances": "components"})
    assert said not in printed(Leaderboard(board.sweep, (apart,)))


def test_a_measure_that_no_trial_has_is_no_column(board: Leaderboard) -> None:
    bare = tuple(replace(t, metrics={k: v for k, v in t.metrics.items() if k == "val/iou"}) for t in board.trials)
    assert Leaderboard(board.sweep, bare).columns == {}


def test_numbers_are_short() -> None:
    values = (0.000123456, 8, True, None, "sam", [0.25, "a"])
    assert [number(v) for v in values] == ["0.000123", "8", "true", "", "sam", "0.25, a"]


def _scored(board: Leaderboard, scores: Sequence[float], **metrics: float) -> Leaderboard:
    """The first trials of a sweep with other scores, the first of them untuned."""
    trials = [
        replace(trial, metrics={**trial.metrics, **metrics, "val/iou": score}, is_baseline=not n, status="FINISHED")
        for n, (trial, score) in enumerate(zip(board.trials, scores, strict=False))
    ]
    return Leaderboard(board.sweep, tuple(sorted(trials, key=lambda t: -t.metrics["val/iou"])))


def test_a_sweep_that_found_nothing_has_no_gain_and_says_why(board: Leaderboard) -> None:
    nothing = _scored(board, [0.0, 0.0, 0.0], **{"predicted/top_score": 0.12})
    text = printed(nothing)
    assert "No trial found an object: the best val/iou is 0.000." in text
    assert "gain over" not in text
    assert [nothing.gain(trial) for trial in nothing.trials] == [None] * 3
    labels = {"details": {"quality": {"per_class": {"pothole": {"iou": 0.224, "box_fill_iou": 0.538}}}}}
    reasons = why_nothing(nothing, {"labels": labels, "policies": []})
    assert "pothole (0.224; box 0.538)" in reasons[0]
    assert any(reason.startswith("few steps: ") for reason in reasons)
    assert any("scored 0.12 at most, and counts from `evaluate.min_score` 0.3 on" in reason for reason in reasons)


def test_what_was_found_beside_every_object_and_rare_classes_are_reasons_too(board: Leaderboard) -> None:
    assert board.sweep.dataset is not None
    splits = {"train": {"images": 1_000_000, "per_class": {"crack": 3, "seam": 400}}}
    dataset = replace(board.sweep.dataset, profile={"splits": splits})
    long = Leaderboard(replace(board.sweep, dataset=dataset), board.trials)
    reasons = why_nothing(_scored(long, [0.0, 0.0], **{"predicted/top_score": 0.9}), {})
    assert [reason.partition(":")[0] for reason in reasons] == [
        "what was found lies beside every object",
        "fewer than 10 objects to learn from",
    ]
    assert "crack (3)" in reasons[1]
    assert "seam" not in reasons[1]


def test_a_gain_over_an_untuned_trial_that_found_nothing_is_no_gain(board: Leaderboard) -> None:
    some = _scored(board, [0.0, 0.4])
    assert some.gain(some.best) is None
    assert "val/iou 0.400; the untuned trial found nothing" in printed(some)


def test_of_a_distance_a_lower_one_is_a_gain_and_zero_is_no_failure(board: Leaderboard) -> None:
    untuned, tuned = _scored(board, [0.4, 0.5]).trials
    near = replace(tuned, is_baseline=False, metrics={"val/iou": 0.5, "val/hausdorff_95": 0.0})
    far = replace(untuned, is_baseline=True, metrics={"val/iou": 0.4, "val/hausdorff_95": 8.0})
    found = Leaderboard(replace(board.sweep, metric="val/hausdorff_95"), (near, far))
    assert not found.found_nothing
    assert found.gain(near) == 8.0
