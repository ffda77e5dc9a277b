"""One self-contained HTML page: result, leaderboard, curves, search space, pictures, data, provenance."""

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from segdist.core.json_values import JsonDict, JsonObject
from segdist.core.panels import colour
from segdist.pages import charts, scatter
from segdist.pages.diagnosis import why_nothing
from segdist.pages.labels import are_made, label_sets
from segdist.pages.leaderboard import Leaderboard, leaderboard, shown_as
from segdist.pages.plan import PLAN, plan_rows
from segdist.pages.rendering import render, score
from segdist.sweepfile.objectives import is_minimised
from segdist.tracking import Tracker, TrialRecord

_DRAWN_OVER = ("runtime/latency_p50_ms", "model/bytes")
"""The costs that the score is drawn over in every sweep."""
RANKED, INDEX, IMPORTANCE = ("pictures_ranked", "pictures_telling"), "index.json", "importance.json"
"""Files of a run; older runs have their ranked pictures under the second name."""
PICTURES, TEST_PICTURES, SUMMARY = "pictures", "pictures_test", "summary.json"
_PICTURE_BYTES = 10_000_000  # of all trials together, so that the page opens on a phone and fits in a mail
_CURVES = 100  # learning curves, of the best trials: more lines are no picture, and each is a question to MLflow
_GROUP_BYTES = 5_000_000  # of groups of images


@dataclass(frozen=True)
class Gallery:
    """The pictures of one trial, as data URIs."""

    trial: TrialRecord
    title: str
    pictures: tuple[str, ...]
    shared: bool
    """Whether other trials have pictures of the same images."""


@dataclass(frozen=True)
class PictureGallery:
    """Ranked images of the winner: data URIs, each with its caption."""

    title: str
    pictures: tuple[tuple[str, str], ...]


def write_html(tracker: Tracker, name: str, path: Path, *, parent_run_id: str = "", images: str = "") -> Path:
    """Write the report of a sweep; nothing outside the file is needed to read it.

    Everything comes from MLflow: runs and metric histories; of each trial the panels under `pictures/`; of the winner
    those of the test split under `pictures_test/`, its worst, median and best ones under `pictures_ranked/`, and
    `evaluation/val.json`; of the sweep's run its data set input, the shares of searched keys in `importance.json`,
    what was predicted in `plan.json`, and `summary.json`:
    `{"labels": manifest of the pseudo-labels or null, "policies": [{"policy": values, "labels":
    manifest}]}`, whose `details` may hold `quality`.

    Args:
        tracker: where the sweep was recorded.
        name: of the sweep.
        path: the file to write.
        parent_run_id: this very sweep, where several have the name.
        images: where the page lies that shows its trials beside each other, from the report; "" without.

    Returns:
        `path`.
    """
    board = leaderboard(tracker, name, parent_run_id=parent_run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_render(tracker, board, images), "utf-8")
    return path


def _render(tracker: Tracker, board: Leaderboard, images: str = "") -> str:
    galleries, omitted = _galleries(tracker, board)
    dataset = board.sweep.dataset
    summary = tracker.read_json(board.sweep.run_id, SUMMARY)
    labels = summary.get("labels")
    return render(
        "report.html.jinja",
        board=board,
        sweep=board.sweep,
        best=board.winner,
        reasons=why_nothing(board, summary) if board.found_nothing else [],
        baseline=board.baseline,
        tints={line.trial: line.tint for line in _lines(board)},
        classes=_classes(board),
        curves=_curves(tracker, board),
        most_curves=_CURVES,
        pareto=_pareto(board),
        importance=_importance(tracker, board),
        consistency=_consistency(tracker, board),
        filters=_filters(board),
        ranked=_ranked_pictures(tracker, board),
        parallel=charts.parallel(_lines(board), board.space, metric=board.metric, titles=board.headings),
        galleries=galleries,
        omitted=omitted,
        data=dataset.profile if dataset else {},
        digest=dataset.digest if dataset else "",
        labels=labels if labels and are_made(labels["details"]) else None,
        label_sets=label_sets(summary),
        plan=plan_rows(tracker.read_json(board.sweep.run_id, PLAN)),
        uri=tracker.uri,
        images=images,
        mlflow=tracker.links(board.sweep.run_id, board.winner.run_id if board.winner else ""),
        mlflow_command=tracker.page_command,
    )


def _lines(board: Leaderboard) -> list[charts.Line]:
    """One line a trial that has a score, without its curve."""
    scored = [(t, score) for t in board.trials if (score := board.score(t)) is not None]
    worst, best = min((s for _, s in scored), default=0.0), max((s for _, s in scored), default=1.0)
    if board.is_lower_better:
        worst, best = best, worst
    return [
        charts.Line(
            trial=trial.number,
            title=f"trial {trial.number}{' (untuned)' if trial.is_baseline else ''}: {board.metric} {score:.3f}",
            tint=(score - worst) / ((best - worst) or 1.0),
            kind="best" if board.winner and trial is board.leader else "baseline" if trial.is_baseline else "",
            params={**board.values(trial), board.metric: score},
        )
        for trial, score in scored
    ]


def _pareto(board: Leaderboard) -> list[tuple[str, Markup]]:
    """The score over each further objective and each cost that was measured."""
    lines = {line.trial: line for line in _lines(board)}
    found = []
    for name in dict.fromkeys((*board.objectives[1:], *_DRAWN_OVER)):
        shown, is_more_better = shown_as(name), not is_minimised(name)
        points = [
            scatter.Point(
                line.trial,
                f"{line.title}, {shown.heading} {shown.text(trial.metrics[name])}",
                line.tint,
                line.kind,
                cost=trial.metrics[name] * shown.factor,
                score=trial.metrics[board.metric],
                is_unbeaten=trial in board.front,
            )
            for trial in board.trials
            if name in trial.metrics and (line := lines.get(trial.number))
        ]
        drawn = scatter.pareto(
            points,
            cost=shown.heading,
            score=board.metric,
            is_lower_better=board.is_lower_better,
            is_more_better=is_more_better,
        )
        found.append((shown.heading + (" (to the right is better)" if is_more_better else ""), drawn))
    return [(title, chart) for title, chart in found if chart]


def _importance(tracker: Tracker, board: Leaderboard) -> list[tuple[str, float]]:
    """Each searched key by its heading, the most important first."""
    shares = tracker.read_json(board.sweep.run_id, IMPORTANCE)
    return sorted(((board.headings.get(k, k), float(v)) for k, v in shares.items()), key=lambda one: -one[1])


def _consistency(tracker: Tracker, board: Leaderboard) -> JsonDict:
    """How even the winner is, on the validation split: from what its evaluation left; empty without."""
    found = tracker.read_json(board.winner.run_id, "evaluation/val.json") if board.winner else {}
    return {"images": len(found.get("images", ())), "metrics": found.get("consistency", [])}


def _filters(board: Leaderboard) -> dict[str, list[str]]:
    """What the leaderboard can be narrowed to: how trials ended, and their families where several compete."""
    endings = sorted({board.ended(t) for t in board.trials})
    families = sorted({str(t.params["model.family"]) for t in board.trials if "model.family" in t.params})
    return {"status": endings if len(endings) > 1 else [], "family": families if len(families) > 1 else []}


def _ranked_pictures(tracker: Tracker, board: Leaderboard) -> list[PictureGallery]:
    """The winner's worst, median and best validation images, and those of groups of images as far as they fit."""
    with tempfile.TemporaryDirectory(prefix="segdist-") as scratch:
        run_id = board.winner.run_id if board.winner else ""
        places = (tracker.find_files(run_id, place, Path(scratch)) for place in RANKED if run_id)
        folder = next((place for place in places if place), None)
        if folder is None:
            return []
        found: list[PictureGallery] = []
        room = _GROUP_BYTES
        for title, listed in _titled(_listed(folder)).items():
            size = sum((folder / one["file"]).stat().st_size for one in listed)
            if not listed[0]["of"] or size <= room:
                pictures = tuple((_data_uri(folder / one["file"]), _caption(one)) for one in listed)
                found.append(PictureGallery(title, pictures))
                room -= size if listed[0]["of"] else 0
        return found


def _listed(folder: Path) -> list[JsonDict]:
    """What each picture is; from its name, where an older run left no list."""
    if (folder / INDEX).is_file():
        listed: list[dict[str, object]] = json.loads((folder / INDEX).read_text("utf-8"))
        return listed
    known = {rank: sorted(folder.glob(f"{rank}-*.jpg")) for rank in ("worst", "median", "best")}
    return [{"file": f.name, "rank": rank, "of": "", "name": ""} for rank, files in known.items() for f in files]


def _titled(listed: Sequence[Mapping[str, object]]) -> dict[str, list[JsonObject]]:
    """By the title of their gallery: a rank of all images, or a group."""
    found: dict[str, list[JsonObject]] = {}
    for one in listed:
        title = f"{one['of']} {one['name'] or 'not known'}" if one["of"] else f"{one['rank']} validation images"
        found.setdefault(f"winner, {title}", []).append(one)
    return found


def _caption(one: JsonObject) -> str:
    value = f", iou {score(one['value'])}" if "value" in one else ""
    name = f", {one['image_id']}" if "image_id" in one else ""
    return f"{one['rank']}{value}{name}"


def _curves(tracker: Tracker, board: Leaderboard) -> list[tuple[str, Markup]]:
    runs = {trial.number: trial.run_id for trial in board.trials}
    first = {trial.number for trial in (*board.trials[:_CURVES], *filter(None, [board.baseline, board.leader]))}
    found = []
    for metric in (board.metric, "train/loss"):
        lines = [
            charts.Line(line.trial, line.title, line.tint, line.kind, tracker.history(runs[line.trial], metric))
            for line in _lines(board)
            if line.trial in first
        ]
        found.append((metric, charts.curves(lines, title=metric)))
    return [(metric, chart) for metric, chart in found if chart]


def _classes(board: Leaderboard) -> list[JsonDict]:
    """Each class with its colour in the pictures, and the winner's IoU."""
    profile = board.sweep.dataset.profile if board.sweep.dataset else {}
    metrics = board.winner.metrics if board.winner else {}
    untuned = board.baseline.metrics if board.baseline else {}
    return [
        {
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*colour(index)),
            "val": _of_class(metrics, "val/iou", name),
            "untuned": _of_class(untuned, "val/iou", name),
            "test": _of_class(metrics, "test/iou", name),
            "instances": {split: c["per_class"].get(name, 0) for split, c in profile.get("splits", {}).items()},
        }
        for index, name in enumerate(profile.get("classes", ()))
    ]


def _of_class(metrics: dict[str, float], metric: str, name: str) -> float | None:
    return metrics.get(f"{metric}/{name}")


def _galleries(tracker: Tracker, board: Leaderboard) -> tuple[list[Gallery], int]:
    """The pictures of the trials, best first, as many as fit; and of how many trials they did not."""
    found: list[Gallery] = []
    omitted, room = 0, _PICTURE_BYTES
    wanted = [(board.winner, TEST_PICTURES, "winner on the test split")] if board.winner else []
    shown = board.trials if board.winner in (None, *board.trials) else (board.winner, *board.trials)
    wanted += [(t, PICTURES, _gallery_title(board, t)) for t in shown if t is not None]
    for place, (trial, folder, title) in enumerate(wanted):
        pictures = _pictures(tracker, trial, folder)
        size = sum(map(len, pictures))
        if size > room:  # of a thousand trials nobody waits for all pictures to be read
            omitted = sum(trial.status == "FINISHED" for trial, _, _ in wanted[place:])
            break
        if pictures:
            found.append(Gallery(trial, title, pictures, shared=folder == PICTURES))
            room -= size
    return sorted(found, key=lambda g: (g.trial is not board.winner, "test" not in g.title)), omitted


def _gallery_title(board: Leaderboard, trial: TrialRecord) -> str:
    role = "winner" if trial is board.winner else f"trial {trial.number}"
    mark = ", untuned" if trial.is_baseline else ""
    return f"{role}{mark}, validation ({board.metric} {score(board.score(trial))})"


def _pictures(tracker: Tracker, trial: TrialRecord, artifact_path: str) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="segdist-") as scratch:
        folder = tracker.find_files(trial.run_id, artifact_path, Path(scratch))
        pictures = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png")) if folder else []
        return tuple(_data_uri(picture) for picture in pictures)


def _data_uri(picture: Path) -> str:
    kind = "png" if picture.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"
