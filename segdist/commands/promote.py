"""A model becomes the champion only if it is better on the same validation images, beyond chance.

`segdist promote` decides so, and so does the end of `segdist run`. The test split decides nothing: a model that was
chosen by it would be quoted with a score that is too good.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from segdist.commands.evaluate import rows_of
from segdist.commands.model import model_folder
from segdist.core import storage as files
from segdist.core.errors import PromotionError
from segdist.core.json_values import JsonDict
from segdist.core.records import LabelledImages
from segdist.core.spec import SweepSpec
from segdist.datasets.shards import MANIFEST, Dataset
from segdist.metrics import Difference, Evaluator, difference, family_of
from segdist.tracking import SweepRecord, Tracker

Measure = Callable[[str, LabelledImages, str], Evaluator]
"""From a model's run, images and the name of a metric to what an evaluator saw of its predictions."""


@dataclass(frozen=True)
class Decision:
    """What was compared and what came of it.

    Attributes:
        name: the registered model.
        candidate: run of the model that wants to be champion.
        champion: run of the one that was; "" where there was none.
        images: which ones both were measured on, for people; "" where nothing was measured.
        images_hash: of them and their truth; "" where nothing was measured.
        difference: of the two; None where nothing was measured.
        promoted: whether the alias moved.
        version: that `NAME@champion` is now; 0 where it did not move.
        reason: in a sentence.
    """

    name: str
    candidate: str
    champion: str
    images: str = ""
    images_hash: str = ""
    difference: Difference | None = None
    promoted: bool = False
    version: int = 0
    reason: str = ""

    @property
    def text(self) -> str:
        """The same for people."""
        lines = []
        if self.difference:
            d = self.difference
            low, high = d.interval or (float("nan"), float("nan"))
            lines.append(
                f"{d.metric}  {d.first:.4f} against the champion's {d.second:.4f} on {len(d.images)} {self.images} "
                f"({self.images_hash}): difference {d.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
            )
        moved = f"{self.name}@champion is now version {self.version}" if self.promoted else "the champion stays"
        return "\n".join([*lines, f"{moved}: {self.reason}"])

    def to_json(self) -> JsonDict:
        """JSON values."""
        return {**vars(self), "difference": self.difference.to_json() if self.difference else None}


def promote(
    model: str,
    *,
    name: str = "",
    data: str = "",
    metric: str = "",
    force: bool = False,
    storage: str,
    tracking: str,
    measure: Measure | None = None,
) -> Decision:
    """Move the alias `champion` to a model if it is better than the present one.

    Better means: on the same images, the interval of the difference lies above zero. Both models are measured
    anew, so that neither profits from what its own run recorded.

    Args:
        model: a run id, `SWEEP#TRIAL`, or `NAME@VERSION`.
        name: the registered model; "" takes the sweep's.
        data: a folder, archive or sweep file to compare on; "" takes the validation split of the data that both
            have in common.
        metric: to compare by, e.g. iou; "" takes the one that decided the sweep.
        force: move the alias whatever comes out, and also where nothing can be compared.
        storage: of the sweeps.
        tracking: their MLflow URI, or "embedded".
        measure: how a model is measured; by default in this process.

    Raises:
        PromotionError: the models cannot be compared, and `force` is off.
    """
    measure = measure or (lambda run, rows, chosen: _judged(run, rows, chosen, storage, tracking))
    tracker = Tracker.at(storage, tracking)
    candidate = tracker.run_of(model)
    _, sweep = tracker.trial(candidate)
    name = name or sweep.name
    champion = tracker.champion_run(name)
    made = Decision(name=name, candidate=candidate, champion=champion)
    if champion == candidate:
        return replace(made, reason="it is the champion")
    if not champion:
        return _moved(tracker, made, "there was no champion to be better than")
    try:
        rows = _named(data, candidate, storage, tracking) if data else _common_val(tracker, champion, sweep, storage)
        found = _compare(candidate, champion, rows, metric or _metric_of(sweep), measure)
    except PromotionError:
        if not force:
            raise
        return _moved(tracker, made, "forced, without a comparison")
    which = f"images of {data}" if data else "validation images"
    made = replace(made, images=which, images_hash=images_hash(rows), difference=found)
    is_better = found.winner == 1
    if is_better or force:
        reason = "it is better, beyond the interval" if is_better else "forced, although it is not better"
        return _moved(tracker, made, reason)
    return replace(made, reason="the interval of the difference does not lie on its side")


def images_hash(rows: LabelledImages) -> str:
    """Sixteen hex digits of images and their truth, whatever their order and names."""
    digests = []
    for sample, image_bytes in rows:
        one = hashlib.sha256(image_bytes)
        for i in sample.instances:
            one.update(repr((i.label, i.mask and (i.mask.size_hw, i.mask.counts), i.box_xyxy, i.is_crowd)).encode())
        digests.append(one.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]


def _moved(tracker: Tracker, made: Decision, reason: str) -> Decision:
    version = tracker.register_champion(made.name, made.candidate)
    tracker.tag(made.candidate, "segdist.promoted", reason)
    return replace(made, promoted=True, version=version, reason=reason)


def register_winner(tracker: Tracker, spec: SweepSpec, winner: str, *, measure: Measure) -> str:
    """Register a sweep's winner, and make it the champion by the rule of `promote`; what came of it, for people.

    Args:
        tracker: where the sweep is recorded.
        spec: the sweep.
        winner: the run of its best trial.
        measure: how a model is measured.
    """
    version = tracker.register(spec.name, winner)
    try:
        found = promote(winner, name=spec.name, storage=spec.storage, tracking=spec.tracking.uri, measure=measure)
        if found.promoted or found.champion == winner:
            return found.text
        stays = found.text
    except PromotionError as error:
        stays = f"{spec.name}@champion stays what it was. {error}"
    return (
        f"{stays}\nthe winner of this sweep is {spec.name}@{version}; "
        f"segdist promote {winner} compares it on other images (--data) or takes it as it is (--force)"
    )


def _compare(candidate: str, champion: str, rows: LabelledImages, metric: str, measure: Measure) -> Difference:
    seen = [measure(run, rows, metric) for run in (candidate, champion)]
    if seen[0].classes != seen[1].classes:
        raise PromotionError(
            f"Both models must find the same classes, but one finds {', '.join(seen[0].classes)} and the champion "
            f"{', '.join(seen[1].classes)}. Give it a name of its own: --name, or move the alias with --force."
        )
    return difference(seen[0], seen[1], metric=metric)


def _metric_of(sweep: SweepRecord) -> str:
    return family_of(sweep.metric.partition("/")[2]) or "iou"


def _judged(run: str, rows: LabelledImages, metric: str, storage: str, tracking: str) -> Evaluator:
    from segdist.engine.evaluation import filled_evaluator

    with model_folder(run, storage, tracking) as (folder, trusted):
        return filled_evaluator(folder, rows, (metric,), trusted=trusted)


def _named(data: str, run: str, storage: str, tracking: str) -> LabelledImages:
    from segdist.engine import checkpoint

    with model_folder(run, storage, tracking) as (folder, _):
        classes = checkpoint.describe(folder).classes
    rows, _ = rows_of(data, "", classes)
    return rows


def _common_val(tracker: Tracker, champion: str, sweep: SweepRecord, storage: str) -> LabelledImages:
    """The validation split that neither sweep's models learned from.

    Raises:
        PromotionError: they learned from other data, which may hold the other's validation images; or the data are
            gone.
    """
    _, other = tracker.trial(champion)
    mine, theirs = (s.dataset.profile.get("content_hash", "") if s.dataset else "" for s in (sweep, other))
    if not mine or mine != theirs:
        raise PromotionError(
            f"Both models must have the same validation images, but they come from data {mine or '?'} and "
            f"{theirs or '?'}: one may have learned from what the other is scored on. Name images that neither has "
            "seen: --data PATH."
        )
    for entry in files.find(files.join(files.absolute(storage), "datasets"), suffix=MANIFEST):
        dataset = Dataset.open(entry.uri.rpartition("/")[0])
        if dataset.manifest.content_hash == mine and dataset.manifest.kind == "dataset":
            return _val_rows(dataset)
    raise PromotionError(f"The data {mine} are no longer in {storage}. Name images to compare on: --data PATH.")


def _val_rows(dataset: Dataset) -> LabelledImages:
    counts = dataset.manifest.splits.get("val")
    if counts is None or not counts.masks:
        raise PromotionError("The data have no validation split with masks. Name images to compare on: --data PATH.")
    return dataset.reader("val", files.cache_dir())
