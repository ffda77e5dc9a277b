"""The report of labels in the terminal: whole numbers in a narrow window, and a word where a teacher does harm."""

from io import StringIO
from typing import Any

from rich.console import Console

from segdist.labelling.quality import summarise
from segdist.pages.labels import label_choices, label_report, label_warnings, print_label_reports


def _note(label: str, iou: float, box_fill: float) -> dict[str, Any]:
    row = [4, 4 * iou, 4 * 0.25, 4 * box_fill, 0.4]
    return {
        "counts": {"labelled": 4, "review": 0, "rejected": 0, "kept": 0},
        "verdicts": {label: {"labelled": 4}},
        "quality": {label: {"label": row, "accepted": row, "box": row}},
        "taught": {label: [30.0, 40.0]},
    }


def _printed(notes: list[dict[str, Any]], width: int = 0) -> str:
    """What a window of some width shows, or a log."""
    manifest = {
        "details": {**summarise(notes), "teacher_seconds": 2.0, "images_per_second": 3.0},
        "splits": {"train": {"images": 8}},
        "content_hash": "0123456789abcdef",
        "findings": {},
    }
    window = {"force_terminal": True, "color_system": None, "width": width} if width else {}
    console = Console(file=StringIO(), **window)  # type: ignore[arg-type]
    print_label_reports([label_report("sam by box", {}, "somewhere", manifest) | {"look": ""}], console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_numbers_are_whole_in_a_narrow_window_whatever_the_names() -> None:
    text = _printed([_note("non-building-infrastructure-of-the-city", 0.768, 0.431)], width=80)
    assert "…" not in text
    assert text.count("0.768") == 5, "twice the label, twice the accepted one, once the strategy"
    assert max(map(len, text.splitlines())) <= 80


def test_labels_that_were_made_when_the_upper_bound_had_another_name_still_show_it() -> None:
    made = summarise([_note("crack", 0.7, 0.4)])
    quality = made["quality"]
    for one in (quality, *quality["per_class"].values()):
        one["ceiling_iou"] = one.pop("oracle_iou")
    manifest = {"details": made, "splits": {"train": {"images": 8}}, "content_hash": "0", "findings": {}}
    shown = label_report("sam by box", {}, "somewhere", manifest)["quality"]
    assert (shown["oracle_iou"], shown["per_class"]["crack"]["oracle_iou"]) == (0.75, 0.75)


def test_a_log_cuts_no_name_short() -> None:
    name = "non-building-infrastructure-of-the-city" * 5
    assert name in _printed([_note(name, 0.768, 0.431)])


def test_classes_whose_boxes_are_better_than_their_labels_are_named() -> None:
    text = _printed([_note("window", 0.163, 0.786), _note("crack", 0.77, 0.109)])
    assert "labels worse than filled boxes: window (" in text
    assert "worse" not in _printed([_note("crack", 0.77, 0.109)])


def test_without_an_accepted_label_the_report_says_that_nothing_is_learned() -> None:
    row = [4, 0.4, 0.4, 2.0, 0.4]
    note = {
        "counts": {"labelled": 0, "review": 0, "rejected": 4, "kept": 0},
        "verdicts": {"crack": {"rejected": 4}},
        "quality": {"crack": {"label": row, "box": row}},
        "taught": {},
    }
    lines = _printed([note]).splitlines()
    assert "  nothing is learned from these labels: none of them was accepted" in lines
    assert any("no label accepted: crack. Nothing of it can be learned." in line for line in lines)
    assert not [line for line in lines if line.rstrip().endswith("IoU")]


def test_what_rounds_did_is_said_after_who_labelled_first_with_what_each_would_have_given() -> None:
    choice: dict[str, Any] = {"teacher": "both together", "by": "masks", "objects": 34, "foretells": {}}
    choice["would_give"] = {"first labels": 0.674, "student": 0.576, "both together": 0.711}
    done = [
        {"taken": {"both together": 471, "first labels": 32}, "choices": {"crack": choice}},
        {"taken": {"round 1": 503}, "choices": {"crack": {**choice, "teacher": "student"}}},
    ]
    again = "students, each on images that it had not learned, looked into the boxes of 503 masks again"
    by = "by human masks of 34 objects; mean IoU with them: both together 0.711, first labels 0.674, student 0.576"
    assert label_choices({"choices": {}, "rounds": done}) == [
        f"round 1 of self-training: {again}; 471 got the pixels that a student adds, 32 stayed as they were",
        f"crack: takes both together, {by}",
        f"round 2 of self-training: {again}; 503 stayed as they were",
        f"crack: takes student, {by} (both together is better by no more than chance)",
    ]


def _elected(by: str, would_give: dict[str, float], objects: int = 12) -> dict[str, Any]:
    best = max(would_give, key=lambda name: would_give[name])
    choice = {"teacher": best, "by": by, "objects": objects, "would_give": would_give, "foretells": {}}
    return {"choices": {"crack": choice}, "labelled": objects}


def test_human_masks_that_no_teacher_comes_near_are_told() -> None:
    (said,) = label_warnings(_elected("masks", {"classical box": 0.09, "classical thin": 0.033}))
    assert said.startswith("no teacher comes near the human masks: crack (0.090).")
    assert not label_warnings(_elected("masks", {"classical box": 0.3, "classical thin": 0.61}))
    assert not label_warnings(_elected("agreement", {"classical box": 0.09, "classical thin": 0.033}))


def test_what_is_not_known_of_the_labels_is_told_only_where_it_is_so() -> None:
    manifest = {"splits": {"train": {"images": 8}}, "content_hash": "0", "findings": {}}

    def unknown(details: dict[str, Any]) -> str:
        return str(label_report("auto", {}, "somewhere", {**manifest, "details": details})["unknown"])

    assert "human masks above alone" in unknown(_elected("masks", {"classical box": 0.5}))
    assert "The truth is not known" in unknown(_elected("agreement", {"classical box": 0.5}))
    assert unknown({"labelled": 0, "kept": 9}) == "", "nothing was made"
    assert unknown(summarise([_note("crack", 0.77, 0.109)])) == ""


def test_labels_that_nothing_is_known_of_say_where_they_lie_how_to_see_them_and_which_key_to_change() -> None:
    details = {"verdicts": {"crack": {"labelled": 4}}, "labelled": 4}
    manifest = {"details": details, "splits": {"train": {"images": 4}}, "content_hash": "0", "findings": {}}
    console = Console(file=StringIO())
    one = label_report("classical thin by box", {}, "store/labels/0123", manifest)
    print_label_reports([one | {"look": "segdist label review export s.yaml -o look/"}], console)
    assert isinstance(console.file, StringIO)
    said = console.file.getvalue()
    assert all(part in said for part in ("  in store/labels/0123\n", "`label.teacher`", "export s.yaml -o look/"))


def test_who_labels_a_class_and_why_is_said_without_names_of_the_code() -> None:
    means = {"classical thin": 0.63, "the surest for each object": 0.629, "classical box": 0.452}
    (said,) = label_choices(_elected("masks", means))
    assert said == (
        "crack: labelled by classical thin, by human masks of 12 objects; mean IoU with them: classical thin 0.630, of "
        "each object the mask foretold to be the best 0.629, the filled box 0.452"
    )
    (said,) = label_choices(_elected("agreement", {"classical box": 0.294, "classical thin": 0.244}, objects=3))
    assert said == (
        "crack: labelled by the filled box, which agrees most with the others, for want of human masks; mean IoU with "
        "the others on 3 objects: the filled box 0.294, classical thin 0.244"
    )
    (said,) = label_choices(_elected("name", {"classical thin": 0.244}, objects=3))
    assert said.startswith("crack: labelled by classical thin, `label.teacher`, for want of human masks; ")
