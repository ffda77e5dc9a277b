"""Labels out to people and back: the queue of a sweep's labels as files for annotation tools, and their corrections."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from segdist.core.errors import DataError, SpecError
from segdist.core.records import Verdict
from segdist.core.text import counted
from segdist.datasets.shards import Dataset
from segdist.labelling.corrections import Corrections, corrections_uri
from segdist.labelling.lessons import lessons
from segdist.labelling.review import back, coco, cvat, label_studio
from segdist.labelling.review.queue import Doubt, Task, by_image, queue
from segdist.pages import doubts as gallery
from segdist.pages.base import Figure
from segdist.pipeline.ingest import ingest
from segdist.pipeline.label_sets import LabelSet, find_label_sets
from segdist.reading.examples import decode_image
from segdist.sweepfile.loading import load

_ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}


def export_review(
    file: str,
    overrides: Sequence[str],
    out: Path,
    *,
    verdicts: Collection[Verdict],
    most: int,
    policy: int = 1,
    limit: int = 0,
    teach: bool = False,
) -> list[Doubt]:
    """Write the queue of a sweep's labels: images, COCO, CVAT and Label Studio files, and a gallery; the queue.

    Args:
        file: the sweep file.
        overrides: `key=value`.
        out: a folder that is not there yet, or empty.
        verdicts: which labels.
        most: how many at most.
        policy: of several searched label policies the n-th, from 1 on.
        limit: of the set of labels, as it was made.
        teach: only those of which a few corrected ones would teach most; see `labelling.lessons`.

    Raises:
        DataError: the labels are not made yet, or there is nothing to review.
        SpecError: there is no such policy, or the folder is in use.
    """
    if out.is_dir() and any(out.iterdir()):
        raise SpecError(f"The folder {out} must be empty or not there, so that no file of another queue stays in it.")
    dataset, sets = find_label_sets(file, overrides, limit=limit)
    one = _chosen(sets, policy)
    taught = lessons(one.labels.samples()) if teach else []
    only = {(image_id, lesson.label) for lesson in taught for image_id in lesson.images} if teach else None
    doubts = queue(one.labels.samples(), verdicts=verdicts, most=most, only=only)
    if teach and not taught:
        raise DataError("Every class has human masks enough. Look at doubtful ones: leave out --teach.")
    if not doubts:
        raise DataError(
            f"No label has the verdict {' or '.join(verdicts)}. Set limits in `label.review`, e.g. {{score: 0.8}}, "
            "or look at others: --verdict accept --verdict reject."
        )
    tasks, figures = _write_images(out, dataset, one.labels, doubts)
    classes = dataset.manifest.classes
    for tool in (coco, cvat, label_studio):
        tool.write(out, tasks, classes)
    back.write_queue(out, tasks, dataset.manifest.content_hash)
    gallery.write(str(out / gallery.FILE), figures, classes, total=len(doubts), title=one.policy.title)
    return doubts


def import_review(
    file: str,
    overrides: Sequence[str],
    masks_file: Path,
    *,
    queue_file: Path | None = None,
    removed_means_nothing: bool = False,
    only_changed: bool = False,
) -> back.Outcome:
    """Take back what people decided; from now on it wins over every teacher of this data set.

    Args:
        file: the sweep file.
        overrides: `key=value`.
        masks_file: COCO or Label Studio JSON, or CVAT XML.
        queue_file: `queue.json` of the exported folder; by default the one beside `masks_file`.
        removed_means_nothing: see `back.decide`.
        only_changed: see `back.decide`.

    Raises:
        DataError: a file is missing, damaged, about other data, or says nothing that can be taken.
    """
    spec = load(file, overrides)
    dataset = ingest(spec)
    queue_file = queue_file or masks_file.with_name(back.FILE)
    objects = back.read_queue(queue_file, dataset.manifest.content_hash, dataset.samples())
    returned = back.read_masks(masks_file, objects)
    outcome = back.decide(objects, returned, removed_means_nothing=removed_means_nothing, only_changed=only_changed)
    if not (outcome.corrections.of_image or outcome.unchanged):
        raise DataError(_nothing_taken(masks_file, outcome, images=len(returned.images)))
    uri = corrections_uri(spec.storage, dataset.uri)
    Corrections.load(uri).merged(outcome.corrections).save(uri)
    return outcome


def _nothing_taken(file: Path, outcome: back.Outcome, *, images: int) -> str:
    held = "; ".join(outcome.first_skipped) or "no shapes at all"
    message = f"{file} decides nothing: it names {counted(images, 'image')} of the queue, and holds {held}."
    if images and not outcome.skipped_shapes:
        return f"{message} If the objects were removed because they are not there: --removed-means-nothing."
    return (
        f"{message} Masks and polygons on images of the queue are understood: COCO, CVAT for images, Label Studio JSON."
    )


def _chosen(sets: Sequence[LabelSet], policy: int) -> LabelSet:
    if not 1 <= policy <= len(sets):
        raise SpecError(f"`--policy` must be 1 to {len(sets)}, in the order of `segdist label report`, but is {policy}")
    return sets[policy - 1]


def _write_images(
    out: Path, dataset: Dataset, labels: Dataset, doubts: Sequence[Doubt]
) -> tuple[list[Task], list[Figure]]:
    """Write the images of the queue; tasks and figures in its order."""
    wanted = by_image(doubts)
    rank = {image_id: n for n, image_id in enumerate(wanted, start=1)}
    made = {s.image_id: s for s in labels.samples() if s.image_id in wanted}
    (out / "images").mkdir(parents=True, exist_ok=True)
    tasks: dict[int, Task] = {}
    figures: dict[int, Figure] = {}
    for sample, content in dataset.rows():
        if sample.image_id not in wanted or content is None:
            continue
        number = rank[sample.image_id]
        name = f"{number:05d}_{_safe(sample.image_id)}.{_ENDINGS.get(content[:2], 'img')}"
        (out / "images" / name).write_bytes(content)
        tasks[number] = Task(name, made[sample.image_id], wanted[sample.image_id])
        shown = [d for d in wanted[sample.image_id] if d.number <= gallery.MOST]
        image_HWC = decode_image(content, name=sample.image_id) if shown else None
        for doubt in shown:
            assert image_HWC is not None
            figures[doubt.number] = gallery.figure(doubt, image_HWC, dataset.manifest.classes)
    return [tasks[n] for n in sorted(tasks)], [figures[n] for n in sorted(figures)]


def _safe(name: str) -> str:
    """An image id as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name)[-60:]
