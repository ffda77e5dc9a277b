"""What labelling costs: against plain loops over SamPredictor and onnxruntime, by strategy and actors, and in memory.

Work in one process is measured in CPU seconds, which other processes hardly change. Two actors against one need the
clock on the wall: where the cores are not free, the benchmark says so and decides nothing.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from segdist.core import masks
from segdist.core.plugins import Question
from segdist.core.records import Rle, Sample
from segdist.core.spec import LabelSpec, SweepSpec
from segdist.datasets.rows import without_masks
from segdist.datasets.shards import Dataset, write_manifest, write_shard
from segdist.formats import coco
from segdist.formats.synthetic import Format, Options
from segdist.labelling.consensus import CandidateMask
from segdist.models.sam import PUBLISHED, SHIPPED_FILE, architecture, weights
from segdist.models.sam import Options as SamOptions
from segdist.pipeline.cluster import connected
from segdist.pipeline.label import label
from segdist.pipeline.label_rows import LabelJob, label_samples
from segdist.pipeline.teacher import Teacher

IMAGES, SIZE = 60, 256
FACADES, PHOTOGRAPHS, BOXES_EACH = Path("../shared/data/facades"), 8, 12
SECOND, MEMORY, ACTORS = 0.15, 1.10, 1.8
STEADY = 1.1
"""Two runs of the same work that differ by more say that the machine is busy."""
Rows = list[tuple[Sample, bytes]]


def main() -> None:
    """Print each comparison."""
    torch.set_num_threads(1)
    rows = _rows("roofs", IMAGES, SIZE)
    _against_a_plain_loop(rows)
    _against_onnxruntime()
    _second_strategy(rows)
    _memory()
    _actors()


def _against_a_plain_loop(rows: Rows) -> None:
    job = _job("box")
    teacher = Teacher(job.label, job.classes)
    label_samples(rows[:2], job, teacher)  # the weights are loaded with the first question
    found: list[Sample] = []

    def ours() -> None:
        made, _, _ = label_samples(rows, replace(job, hidden=("train",)), teacher)
        found[:] = made

    plain: list[list[Rle]] = []
    loop = _plain_loop()
    seconds, reference = _cpu(ours), _cpu(lambda: plain.__setitem__(slice(None), [loop(s, b) for s, b in rows]))
    same = sum([i.mask for i in s.instances] == of for s, of in zip(found, plain, strict=True))
    print(f"plain SamPredictor loop    {len(rows) / reference:6.1f} images/CPU-s")
    print(f"segdist, scoring included  {len(rows) / seconds:6.1f} images/CPU-s")
    print(f"ratio {reference / seconds:.2f}  >= 1: {_met(seconds <= reference)}")
    print(f"the same masks in {same} of {len(rows)} images: {_met(same == len(rows))}")


def _plain_loop() -> Callable[[Sample, bytes], list[Rle]]:
    """What people write: one image, then one box after the other."""
    from segment_anything import SamPredictor

    from segdist.reading.examples import decode_image

    sam = architecture.tiny(128).eval()
    weights.load(sam, SHIPPED_FILE, SamOptions())
    predictor = SamPredictor(sam)

    def ask(sample: Sample, content: bytes) -> list[Rle]:
        predictor.set_image(decode_image(content, name=sample.image_id))
        found = []
        for instance in sample.instances:
            with torch.inference_mode():
                answer, _, _ = predictor.predict(box=np.array(instance.box_xyxy), multimask_output=False)
            found.append(masks.encode(answer[0]))
        return found

    return ask


def _against_onnxruntime() -> None:
    """MobileSAM on one thread, against a loop over its published graphs; on photographs, where they are there."""
    published = next(one for one in PUBLISHED if one.name == "mobile_sam_onnx")
    if not (FACADES.is_dir() and published.is_here):
        print(f"onnxruntime: not compared, for want of {FACADES} or of {published.name} (make weights)")
        return
    source = coco.Format(coco.Options(path=str(FACADES)))
    samples = [s for s in source.read(lambda _: None) if s.instances][:PHOTOGRAPHS]
    rows = [(without_masks(replace(s, instances=s.instances[:BOXES_EACH])), source.image_bytes(s)) for s in samples]
    spec = LabelSpec.model_validate(
        {"teacher": {"family": "sam", "sam": {"weights": published.name, "masks": "best_of_three"}}}
    )
    job = LabelJob(spec, tuple(sorted({i.label for s, _ in rows for i in s.instances})), (), source="benchmark")
    teacher = Teacher(spec, job.classes)
    loop = _onnxruntime_loop(published.place)
    label_samples(rows[:1], job, teacher)
    loop(*rows[0])
    ours: list[Sample] = []
    theirs: list[list[Rle]] = []
    seconds = _cpu(lambda: ours.extend(label_samples(rows, job, teacher)[0]))
    reference = _cpu(lambda: theirs.extend(loop(*row) for row in rows))
    pairs = [(i.mask, rle) for s, of in zip(ours, theirs, strict=True) for i, rle in zip(s.instances, of, strict=True)]
    overlaps = [masks.iou(mask, rle) for mask, rle in pairs if mask]
    print(f"MobileSAM, {len(rows)} photographs, {len(pairs)} boxes: onnxruntime {reference:.1f} CPU-s, segdist "
          f"{seconds:.1f}; ratio {reference / seconds:.2f}  >= 1: {_met(seconds <= reference)}; IoU of the masks "
          f"{np.mean(overlaps):.4f}, least {min(overlaps):.3f}")  # fmt: skip


def _onnxruntime_loop(folder: Path) -> Callable[[Sample, bytes], list[Rle]]:
    """What people write: the image through one graph, then each box through the other."""
    import onnxruntime

    from segdist.nets.collate import IMAGENET_MEAN, IMAGENET_STD
    from segdist.reading.examples import decode_image, letterbox

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    encoder, decoder = (
        onnxruntime.InferenceSession(folder / name, settings, providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "sam.onnx")
    )
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    nothing = {"mask_input": np.zeros((1, 1, 256, 256), np.float32), "has_mask_input": np.zeros(1, np.float32)}

    def ask(sample: Sample, content: bytes) -> list[Rle]:
        image = decode_image(content, name=sample.image_id)
        pixels = letterbox(image, 1024).transpose(2, 0, 1).astype(np.float32)
        embedding = encoder.run(None, {"input": ((pixels - mean) / std)[None]})[0]
        found = []
        for instance in sample.instances:
            corners = np.array(instance.box_xyxy, np.float32).reshape(1, 2, 2) * (1024 / max(image.shape[:2]))
            shown = {"point_coords": corners, "point_labels": np.array([[2, 3]], np.float32)}
            size = {"orig_im_size": np.array(image.shape[:2], np.float32)}
            answer = decoder.run(None, {"image_embeddings": embedding, **shown, **nothing, **size})[0]
            found.append(masks.encode(answer[0, 0] > 0))
        return found

    return ask


def _second_strategy(rows: Rows) -> None:
    """Encoder and all, then the same images again by another strategy over the cached embeddings."""
    before = os.environ.get("SEGDIST_CACHE")
    with TemporaryDirectory(prefix="segdist-") as folder:
        os.environ["SEGDIST_CACHE"] = folder
        for size, shown in (("tiny", rows), ("vit_b", rows[:1])):
            cached = {"size": size, "embeddings": "cache", **({"weights": "random"} if size == "vit_b" else {})}
            seconds = []
            for strategy in ("box", "box_skeleton"):
                job = replace(_job(strategy, sam=cached), hidden=())
                teacher = Teacher(job.label, job.classes)
                teacher._loaded()  # the weights are no part of the comparison
                bare = [(without_masks(sample), content) for sample, content in shown]  # scoring is no labelling
                seconds.append(_cpu(lambda j=job, t=teacher, r=bare: label_samples(r, j, t)))  # type: ignore[misc]
            share = seconds[1] / seconds[0]
            print(f"{size:6} {len(shown)} images: box {seconds[0]:.2f} CPU-s, then box_skeleton {seconds[1]:.2f}: "
                  f"{share:.2f}  < {SECOND}: {_met(share < SECOND)}")  # fmt: skip
    os.environ.pop("SEGDIST_CACHE")
    if before:
        os.environ["SEGDIST_CACHE"] = before


def _memory() -> None:
    """Peak memory of the driver, in a process of its own for each size."""
    peaks = {}
    for count in (1_000, 10_000):
        done = subprocess.run(
            [sys.executable, "-c", f"from benchmarks.labelling import drive; drive({count})"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks[count] = float(done.stdout.split()[-1])
        print(f"driver at {count:6} images: {peaks[count]:.0f} MB at most")
    ratio = peaks[10_000] / peaks[1_000]
    print(f"ratio {ratio:.2f}  <= {MEMORY}: {_met(ratio <= MEMORY)}")


def drive(count: int) -> None:
    """Label many small images, and print this process's peak memory in megabytes."""
    with TemporaryDirectory(prefix="segdist-") as folder:
        subprocess.run(
            [sys.executable, "-c", f"from benchmarks.labelling import draw; draw({count}, {folder!r})"], check=True
        )
        label(_sweep(folder, {"teacher": {"family": "classical", "classical": {"method": "otsu"}}, "actors": 1}),
              Dataset.open(f"{folder}/data"))  # fmt: skip
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def draw(count: int, folder: str) -> None:
    """Write a data set of small images, 250 drawn ones over and over; in a process of its own, which does not count."""
    source = Format(Options(scene="roofs", count=250, size=32, seed=5))
    drawn = [(replace(sample, split="train"), source.image_bytes(sample)) for sample in source.read(lambda _: None)]
    shards = [
        write_shard(
            f"{folder}/data/train-{n:05d}.parquet",
            [(replace(sample, image_id=f"{n}-{sample.image_id}"), content) for sample, content in drawn],
        )
        for n in range(count // len(drawn))
    ]
    write_manifest(f"{folder}/data", "dataset", ("roof",), shards)


class Waiting(Teacher):
    """A teacher that waits in place of computing, as one waits for a GPU: what is left is what the pool costs."""

    def candidates(self, questions: Sequence[Question]) -> list[list[list[CandidateMask]]]:
        """A quarter of a second an image, and no answer."""
        time.sleep(0.25 * len(questions))
        return [[[] for _ in question.indices] for question in questions]


def _actors() -> None:
    """The same work by one actor on one core, by two on two, and by one again; first by teachers that need no core."""
    if len(os.sched_getaffinity(0)) < 2:
        print("two actors against one: NOT DECIDED, there is one core")
        return
    with TemporaryDirectory(prefix="segdist-") as folder:
        rows = _rows("roofs", 400, 128)
        shards = [write_shard(f"{folder}/data/train-{n:05d}.parquet", rows[n * 20 : n * 20 + 20]) for n in range(20)]
        write_manifest(f"{folder}/data", "dataset", ("roof",), shards)
        one, two, again = (_by_actors(folder, "waiting", n) for n in (1, 2, 1))
        print(f"two actors that wait, not compute: x{min(one, again) / two:.2f}")
        one, two, again = (_by_actors(folder, "computing", n) for n in (1, 2, 1))
    wobble, gain = max(one, again) / min(one, again), min(one, again) / two
    verdict = _met(gain >= ACTORS) if wobble <= STEADY else f"NOT DECIDED, one actor took {one:.1f} s and {again:.1f} s"
    print(f"two actors on two cores against one on one, the driver and Ray beside them: {one:.1f}, {two:.1f} and "
          f"{again:.1f} s, x{gain:.2f}  >= {ACTORS}: {verdict}")  # fmt: skip


def _by_actors(folder: str, kind: str, actors: int) -> float:
    """Seconds from the first finished shard to the last, in a process of its own that has a core for each actor."""
    done = subprocess.run(
        [sys.executable, "-c", f"from benchmarks.labelling import pool; pool({folder!r}, {kind!r}, {actors})"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def pool(folder: str, kind: str, actors: int) -> None:
    """Label with some actors on as many cores, which Ray and the driver share, and print the seconds.

    The start of Ray and its actors is no labelling.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:actors])
    times: list[float] = []
    with TemporaryDirectory(prefix="segdist-") as storage, connected():
        sweep = _sweep(storage, {"teacher": {"family": "sam"}, "actors": actors, "images_per_shard": 20})
        teacher = Waiting if kind == "waiting" else Teacher
        label(sweep, Dataset.open(f"{folder}/data"), lambda _: times.append(time.monotonic()), teacher=teacher)
    print(times[-1] - times[0])


def _sweep(storage: str | Path, part: dict[str, Any]) -> SweepSpec:
    content = {
        "name": "benchmark",
        "storage": str(storage),
        "model": {"family": "unet_cbam"},
        "data": {"sources": [{"format": "synthetic"}], "boxes_only": ["train"]},
        "label": part,
    }
    return SweepSpec.model_validate(content)


def _job(strategy: str, **options: Any) -> LabelJob:
    spec = LabelSpec.model_validate({"teacher": {"family": "sam", **options}, "prompt": {"strategy": strategy}})
    return LabelJob(spec, ("roof",), hidden=("train",), source="benchmark")


def _rows(scene: Any, count: int, size: int) -> Rows:
    source = Format(Options(scene=scene, count=count, size=size, seed=990))
    return [(replace(s, split="train"), source.image_bytes(s)) for s in source.read(lambda _: None)]


def _cpu(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _met(met: Any) -> str:
    return "met" if met else "MISSED"
