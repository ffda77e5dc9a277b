"""Images in, masks out: a trained model over files, folders, archives, tables and data sets; on this machine or Ray.

What is done is kept in parts: the same command after an interruption does only what is missing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdist.commands.model import changed, model_folder
from segdist.core import storage
from segdist.core.errors import DataError, StorageError
from segdist.core.spec import digest
from segdist.core.text import counted
from segdist.datasets.inputs import Input, find_inputs
from segdist.pipeline.cluster import connected, slots
from segdist.pipeline.dataflow import map_items
from segdist.pipeline.gpus import given
from segdist.pipeline.known import Known
from segdist.pipeline.predictor import How, PredictJob, Predictor, packed

INLINE_IMAGES = 64
"""Up to this many images, working here takes less time than Ray takes to start."""
IMAGES_PER_PART = 16
"""Images between two saves: the most that a killed run has to do again."""
PREDICTIONS, PARTS, RUN = "predictions.json", "parts", "run.json"
MOST_NAMED = 50
"""Files that were not read, named one by one."""
Say = Callable[[str], None]


def predict_images(
    model: str,
    places: Sequence[str],
    out: str,
    *,
    how: How | None = None,
    actors: int = 0,
    storage_uri: str,
    tracking: str,
    say: Say = lambda _: None,
) -> str:
    """Segment images; writes `predictions.json` (COCO) and whatever else was asked for.

    Args:
        model: `NAME@champion`, `NAME@VERSION`, a run id, or a model folder.
        places: see `datasets.inputs.find_inputs`.
        out: the folder to write to, local or `s3://`; a second run with the same model and settings goes on there.
        how: what decides the result.
        actors: models side by side; 0 chooses: one here for a few images, else as many as the cluster holds.
        storage_uri: of the sweep that trained the model.
        tracking: its MLflow URI, or "embedded".
        say: is called with progress.

    Returns:
        The URI of `predictions.json`.

    Raises:
        DataError: there is no image, one cannot be read (the others are predicted), or a model that needs boxes got
            none; or annotations of `how` fit several images.
        StorageError: `out` holds predictions of another model or with other settings.
    """
    from segdist.engine import checkpoint
    from segdist.engine.outputs import check_outputs

    how = how or How()
    check_outputs(how.outputs)
    out = storage.absolute(out)
    unread: list[str] = []
    inputs = list(find_inputs(list(places), lambda uri, reason: unread.append(f"{uri}: {reason}")))
    with model_folder(model, storage_uri, tracking) as (folder, trusted):
        description = checkpoint.describe(folder)
        job = PredictJob(packed(folder, trusted=trusted), out, how)
    evaluate = changed(description.evaluate, how.changes)
    if evaluate.prompts == "box" and not how.boxes:
        raise DataError(f"{model} segments what boxes show it. Name a COCO file with boxes: --boxes annotations.json")
    known = {
        "boxes": Known.boxes(how.boxes, description.classes).of(inputs, say),
        "truth": Known.truth(how.truth, description.classes).of(inputs, say),
    }
    _claim(out, job)
    parts = _parts(inputs, known, out)
    missing = [part for part in parts if not storage.exists(part["target"])]
    if len(missing) < len(parts):
        say(f"done already: {len(parts) - len(missing)} of {counted(len(parts), 'part')}")
    for number, _ in enumerate(_run(job, missing, actors), start=1):
        say(f"predicted part {number}/{len(missing)}")
    return _collected(out, parts, description.classes, unread, say)


def _claim(out: str, job: PredictJob) -> None:
    """Write down what the folder holds; a folder of another model or with other settings is refused."""
    mine = {
        "model": digest(
            [(name, hashlib.sha256(content).hexdigest()) for name, content in sorted(job.model.files.items())]
        ),
        **asdict(job.how),
        "outputs": list(job.how.outputs),
        "changes": dict(job.how.changes),
    }
    place = storage.join(out, RUN)
    if storage.exists(place) and storage.read_json(place) != json.loads(json.dumps(mine)):
        raise StorageError(
            f"{out} holds predictions of another model or with other settings ({RUN}). Name another folder, or delete "
            "this one."
        )
    storage.write_json(place, mine)


def _parts(inputs: Sequence[Input], known: Mapping[str, Sequence[object]], out: str) -> list[dict[str, Any]]:
    """What is predicted and saved at once; named by its images, so that others than before are done anew.

    Args:
        inputs: the images.
        known: what is known of each image, by what it is called in a part.
        out: the folder of all parts.
    """
    found = []
    for start in range(0, len(inputs), IMAGES_PER_PART):
        images = [
            {**one.to_json(), "number": n, **{what: of[n - 1] for what, of in known.items()}}
            for n, one in enumerate(inputs[start : start + IMAGES_PER_PART], start=start + 1)
        ]
        name = f"{start:08d}-{digest(images)}.json"
        found.append({"images": json.dumps(images), "target": storage.join(out, PARTS, name)})
    return found


def _run(job: PredictJob, parts: Sequence[dict[str, Any]], actors: int) -> Iterator[str]:
    """Predict parts here, or on actors of Ray Data."""
    if not parts:
        return
    images = sum(len(json.loads(part["images"])) for part in parts)
    if actors == 1 or (not actors and images <= INLINE_IMAGES):
        worker = Predictor(job)
        for part in parts:
            yield worker.work(part)
        return
    with connected() as ray:
        gpu = given("auto", ray).gpus > 0
        # Less than half a CPU each: readers must not wait for actors to end.
        most = slots(ray, cpus=0.45 if not gpu else 1, gpus=1.0 if gpu else 0)
        yield from map_items(
            ray,
            Predictor,
            parts,
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=min(len(parts), actors or max(1, most // (1 if gpu else 2)))),
            num_cpus=0.45,
            num_gpus=1.0 if gpu else 0,
        )


def _collected(
    out: str, parts: Sequence[Mapping[str, Any]], classes: Sequence[str], unread: Sequence[str], say: Say
) -> str:
    """One COCO file of all parts, in the order of the images; annotations go to disk as they come."""
    images: list[dict[str, object]] = []
    unreadable: list[str] = []
    count = 0
    with TemporaryDirectory(prefix="segdist-") as scratch:
        file = Path(scratch) / PREDICTIONS
        with file.open("w", encoding="utf-8") as stream:
            stream.write('{"annotations": [')
            for part in parts:
                for one in storage.read_json(part["target"]):
                    if "error" in one:
                        unreadable.append(f"{one['file_name']}: {one['error']}")
                        continue
                    images.append({**one["image"], "id": len(images) + 1})
                    for entry in one["annotations"]:
                        count += 1
                        stream.write("\n" if count == 1 else ",\n")
                        stream.write(json.dumps({**entry, "id": count, "image_id": len(images)}))
            categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
            stream.write("\n],\n" + json.dumps({"images": images, "categories": categories}).removeprefix("{") + "\n")
        target = storage.join(out, PREDICTIONS)
        storage.upload(file, target)
    named = [*unread, *unreadable]
    if named:
        more = [f"  ... and {len(named) - MOST_NAMED} more"] * (len(named) > MOST_NAMED)
        counts = f"{counted(len(images) + len(named), 'file')}, {len(images)} read, {len(named)} named:"
        say("\n".join([counts, *(f"  {line}" for line in named[:MOST_NAMED]), *more]))
    if unreadable:
        raise DataError(
            f"cannot be read: {len(unreadable)} of {counted(len(images) + len(unreadable), 'image')}; "
            f"the rest is in {target}:\n" + "\n".join(unreadable)
        )
    return target
