"""How good sets of labels are, in the terminal."""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import TypeAdapter
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.text import Text

from segdist.core.json_values import JsonDict, JsonObject
from segdist.core.spec import teacher_in_words
from segdist.core.terminal import Console, Table
from segdist.core.text import counted
from segdist.labelling.election import EACH, ENOUGH, Choice
from segdist.labelling.lessons import Lesson
from segdist.labelling.rounds import BOTH, COMMON, STUDENT, Done
from segdist.pages.leaderboard import number

_CHOICES = TypeAdapter(dict[str, Choice])
_ROUNDS = TypeAdapter(list[Done])
_BECAME = {
    STUDENT: "became the student's",
    BOTH: "got the pixels that a student adds",
    COMMON: "kept the pixels that a student has too",
}
_VERDICTS = ("labelled", "review", "rejected")
_FAR = 0.25
"""Mean IoU with human masks below which a teacher draws something else than people did."""
_MEASURES = ("iou", "boundary_iou", "box_fill_iou")


def label_report(title: str, values: JsonObject, uri: str, manifest: JsonObject) -> JsonDict:
    """What is known of one set of labels, as JSON values.

    Args:
        title: the policy in words.
        values: of the searched label keys.
        uri: where the labels are.
        manifest: of the labels.
    """
    details = _details(manifest)
    images = sum(split["images"] for split in manifest["splits"].values())
    seconds = details.get("teacher_seconds")
    shown = ("verdicts", "quality", "kept", "halved", "corrected", "images_per_second")
    return {
        "policy": title,
        "values": dict(values),
        "labels": uri,
        "content_hash": manifest["content_hash"],
        "images": images,
        "findings": manifest["findings"],
        **{name: details.get(name, 0) for name in _VERDICTS},
        **{name: details.get(name) for name in shown},
        "images_per_teacher_second": images / seconds if seconds else None,
        "worse_than_boxes": worse_than_boxes(details["quality"]) if details.get("quality") else [],
        "warnings": label_warnings(details),
        "choices": label_choices(details),
        "unknown": _unknown(details),
    }


def label_choices(details: Mapping[str, object]) -> list[str]:
    """Who labels each class where one of several was chosen, why, and what each would have given; what rounds did.

    Args:
        details: of the labels' manifest.
    """
    found = [*_choices(_chosen(details), "labelled by")]
    for number_, one in enumerate(_ROUNDS.validate_python(details.get("rounds") or []), start=1):
        found += _round(number_, one)
    return found


def _round(number_: int, one: Done) -> Iterator[str]:
    """What a round of self-training has done."""
    taken = {said: one.taken.get(name, 0) for name, said in _BECAME.items()}
    stayed = sum(one.taken.values()) - sum(taken.values())
    became = [f"{count} {said}" for said, count in taken.items() if count]
    masks = counted(stayed + sum(taken.values()), "mask")
    yield (
        f"round {number_} of self-training: students, each on images that it had not learned, looked into the boxes of "
        f"{masks} again; {', '.join([*became, f'{stayed} stayed as they were'])}"
    )
    yield from _choices(one.choices, "takes")


def _choices(of_class: Mapping[str, Choice], verb: str) -> Iterator[str]:
    for label, choice in of_class.items():
        ranked = sorted(choice.would_give.items(), key=lambda entry: -entry[1])
        each = ", ".join(f"{_in_words(name)} {mean:.3f}" for name, mean in ranked)
        objects, taken = counted(choice.objects, "object"), f"{label}: {verb} {_in_words(choice.teacher)}"
        if choice.by != "masks":
            why = "`label.teacher`" if choice.by == "name" else "which agrees most with the others"
            yield f"{taken}, {why}, for want of human masks; mean IoU with the others on {objects}: {each}"
            continue
        by = f"human masks of {objects}{' and of other classes' if choice.objects < ENOUGH else ''}"
        best, most = ranked[0]
        is_clear = most <= choice.would_give[choice.teacher]
        not_clear = "" if is_clear else f" ({_in_words(best)} is better by no more than chance)"
        yield f"{taken}, by {by}; mean IoU with them: {each}{not_clear}"


def _in_words(name: str) -> str:
    """A candidate for a reader who never saw the sweep file."""
    return "of each object the mask foretold to be the best" if name == EACH else teacher_in_words(name)


def _chosen(details: Mapping[str, object]) -> dict[str, Choice]:
    """Who labels each class first, where one of several was chosen."""
    return _CHOICES.validate_python(details.get("choices") or {})


def _unknown(details: Mapping[str, object]) -> str:
    """What is not known of the labels' quality, and what would tell it.

    "" where masks were hidden to measure them, and where none were made.
    """
    if details.get("quality") or not are_made(details):
        return ""
    chosen = _chosen(details)
    if any(choice.by == "masks" for choice in chosen.values()):
        return (
            "How good the masks made are is known from the comparison with human masks above alone; of the objects "
            "that had none the truth is not known."
        )
    how = (
        "Five of a class, in `train` or `val`, would tell it, and choose its teacher."
        if chosen
        else "Human masks in `train` or `val` tell it with `label.policy: auto`, or hidden by `data.boxes_only`."
    )
    return (
        "The truth is not known: there are no human masks that the made ones were compared with, so nothing can be "
        f"said about their IoU. {how} Look at pictures of them: where the masks are wrong, name another in "
        "`label.teacher`; thin suits lines, as cracks, and sam objects with an inside, as potholes."
    )


def are_made(details: Mapping[str, object]) -> bool:
    """Whether any object was labelled, for better or worse.

    Args:
        details: of the labels' manifest.
    """
    return any(details.get(name) for name in _VERDICTS)


def label_sets(summary: JsonObject) -> list[JsonDict]:
    """What the page of a sweep shows of each set of labels it learned from, one where no policy was searched.

    Args:
        summary: `summary.json` of the sweep's run.
    """
    policies = summary.get("policies") or []
    if not policies and summary.get("labels"):
        policies = [{"policy": {}, "labels": summary["labels"]}]
    return [_of_page(one["policy"], one["labels"]) for one in policies]


def _details(manifest: JsonObject) -> JsonObject:
    """Of the labels, also where they were made when parts of it had other names, or were not measured."""
    details = manifest["details"]
    quality = details.get("quality")
    if not quality or {"oracle_iou", "score_correlation"} <= quality.keys():
        return details
    per_class = {label: _as_today(of) for label, of in quality["per_class"].items()}
    return {**details, "quality": {**_as_today(quality), "per_class": per_class}}


def _as_today(quality: Mapping[str, object]) -> dict[str, object]:
    found = {**quality, "oracle_iou": quality.get("oracle_iou", quality.get("ceiling_iou"))}
    if "score_correlation" in quality:
        return found
    hits = quality.get("calibration_error")  # scores were taken for chances alone
    return {**found, "hit_calibration_error": hits, "calibration_error": None, "score_correlation": None}


def _of_page(policy: Mapping[str, object], manifest: Mapping[str, object]) -> JsonDict:
    details = _details(manifest)
    quality, verdicts = details.get("quality") or {}, details.get("verdicts") or {}
    per_class = quality.get("per_class", {})
    rows = [
        {"name": label, **verdicts.get(label, {}), **per_class.get(label, {})} for label in {**per_class, **verdicts}
    ]
    totals = {name: details.get(name, 0) for name in _VERDICTS}
    return {
        "title": ", ".join(f"{key.removeprefix('label.')} {number(value)}" for key, value in policy.items()),
        "content_hash": manifest["content_hash"],
        "details": details,
        "quality": quality,
        "rows": [*rows, {"name": "all objects", **totals, **quality}] if rows else [],
        "has_verdicts": bool(verdicts),
        "warnings": label_warnings(details),
        "choices": label_choices(details),
        "unknown": _unknown(details),
    }


def print_label_reports(reports: Sequence[Mapping[str, object]], console: RichConsole | None = None) -> None:
    """Print the sets of labels of a sweep, one after the other.

    Args:
        reports: `label_report` of each, and its `look`: the command that makes a page of these labels.
        console: where to; standard output by default.
    """
    out = Console(console)
    for one in reports:
        _print_one(one, out)


def _print_one(one: JsonObject, out: Console) -> None:
    speed, each = one["images_per_second"], one["images_per_teacher_second"]
    rates = [f"{speed:.1f} images/s"] if speed else []
    rates += [f"{each:.1f} images/s a teacher"] if each else []
    out.print(f"[bold]{escape(one['policy'])}[/bold]")
    out.print("  " + ", ".join([f"{counted(one['images'], 'image')}", *rates]))
    counts = [f"{one[name]} {name}" for name in _VERDICTS] + [
        f"{counted(one['kept'] or 0, 'mask was', 'masks were')} there"
    ]
    counts += [f"{one['corrected']} decided by people"] if one["corrected"] else []
    out.print(f"  {', '.join(counts)}; {one['content_hash']}")
    out.print(f"  in {escape(one['labels'])}")
    for severity, codes in one["findings"].items():
        out.print(f"  {severity}: {', '.join(f'{code} {count}' for code, count in codes.items())}")
    for choice in one["choices"]:
        out.print(f"  {escape(choice)}")
    for lesson in one.get("lessons", []):
        out.print(f"  {escape(lesson_in_words(Lesson(**lesson)))}")
    for warning in one["warnings"]:
        out.print(f"  [bold]warning: {escape(warning)}[/bold]")
    quality = one["quality"]
    if not quality and not one["unknown"]:
        out.print("  nothing was to be labelled: every object has a mask of a person")
        return
    if not quality:
        out.print(_verdict_table(one["verdicts"] or {}))
        out.print(f"  {escape(one['unknown'])}")
        out.print(f"  pictures: {escape(one['look'])}")
        return
    out.print(_quality_table(quality, one["verdicts"]))
    out.print(_strategy_table(quality))
    out.print(
        f"  scores foretell the IoU: calibration error {number(quality['calibration_error'])}, mean distance "
        f"{number(quality['score_error'])}, correlation {number(quality['score_correlation'])};\n"
        f"  taken for chances of IoU 0.5: calibration error {number(quality['hit_calibration_error'])}, Brier "
        f"{number(quality['brier'])}"
    )
    oracle = quality["oracle_iou"]
    out.print(
        "  nothing is learned from these labels: none of them was accepted"
        if oracle is None
        else f"  a student that draws exactly what these labels teach gets IoU {number(oracle)}"
    )
    out.print()


def lesson_in_words(lesson: Lesson) -> str:
    """What a person should correct of a class, and what for."""
    wanted = counted(lesson.wanted, "corrected mask")
    use = "would decide who labels it" if lesson.decides else "would make its scores surer"
    there = f", beside {counted(lesson.known, 'human one')}" if lesson.known else ""
    return f"{lesson.label}: {wanted} {use}{there}; first {', '.join(lesson.images)}"


def label_warnings(details: JsonObject) -> list[str]:
    """What a student of a set of labels will suffer from, a sentence each.

    Args:
        details: of the labels' manifest.
    """
    quality = details.get("quality")
    found = []
    if worse := worse_than_boxes(quality) if quality else []:
        of = quality["per_class"]  # type: ignore[index]
        names = ", ".join(f"{label} ({of[label]['iou']:.3f}; box {of[label]['box_fill_iou']:.3f})" for label in worse)
        found.append(
            f"labels worse than filled boxes: {names}. Students learn what labels show. Take a teacher that knows such "
            "images, let it see more pixels (its `image_size`), or take the filled boxes: "
            "label.teacher={family: classical, classical: {method: box}}"
        )
    chosen = _chosen(details).items()
    if far := [f"{label} ({max(one.would_give.values()):.3f})" for label, one in chosen if _is_far(one)]:
        found.append(
            f"no teacher comes near the human masks: {', '.join(far)}. Look at both (segdist label review export "
            "--verdict accept). Where the human masks are right, these teachers do not know such images: name another "
            "in `label.teachers`, or draw more. Where they are wrong, correct or remove them"
        )
    verdicts = details.get("verdicts") or {}
    if none := [label for label, of in verdicts.items() if not of.get("labelled")]:
        found.append(
            f"no label accepted: {', '.join(none)}. Nothing of it can be learned. Lower the limits of `label.reject` "
            "and `label.review`, or decide them: segdist label review export --verdict review --verdict reject"
        )
    return found


def _is_far(choice: Choice) -> bool:
    return choice.by == "masks" and max(choice.would_give.values()) < _FAR


def worse_than_boxes(quality: JsonObject) -> list[str]:
    """Classes whose labels are further from the truth than their boxes, filled: such a teacher does harm."""
    return [label for label, of in quality["per_class"].items() if of["iou"] < of.get("box_fill_iou", 0.0)]


def _verdict_table(verdicts: Mapping[str, Mapping[str, int]]) -> Table:
    table = _table("class", *_VERDICTS)
    for label, of in verdicts.items():
        table.add_row(Text(label), *(str(of.get(name, 0)) for name in _VERDICTS))
    return table


def _quality_table(quality: JsonObject, verdicts: Mapping[str, Mapping[str, int]]) -> Table:
    """A line a class: verdicts, the labels' quality whatever their verdict, that of the accepted ones, the oracle."""
    table = _table("class", *_VERDICTS, "IoU", "boundary", "box fill", "accepted", "oracle")
    totals = {name: sum(of.get(name, 0) for of in verdicts.values()) for name in _VERDICTS}
    rows = [(label, of, verdicts.get(label, {})) for label, of in quality["per_class"].items()]
    for label, of, counts in [*rows, ("all objects", quality, totals)]:
        table.add_row(
            Text(label),
            *(str(counts.get(name, 0)) for name in _VERDICTS),
            *(number(of[name]) for name in _MEASURES),
            number((of["accepted"] or {}).get("iou")),
            number(of["oracle_iou"]),
        )
    return table


def _strategy_table(quality: JsonObject) -> Table:
    """A line a class and prompt strategy: its surest mask alone, before consensus and cleaning."""
    table = _table("strategy", "class", "objects", "IoU", "boundary", "box fill")
    everything = {"all objects": quality} if len(quality["per_class"]) > 1 else {}
    for strategy in quality["strategies"]:
        for label, of in {**quality["per_class"], **everything}.items():
            row = of["strategies"].get(strategy)
            if row:
                values = (number(row[name]) for name in _MEASURES)
                table.add_row(Text(strategy), Text(label), str(row["objects"]), *values)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for n, name in enumerate(columns):
        is_name = not n or name == "class"
        # Where the window is narrow names are broken, never numbers.
        table.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    return table
