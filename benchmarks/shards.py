"""Reading shards to decoded arrays against a bare loop that opens the same JPEGs, memory over many images, and masks.

One core; both sides decode with `decode_image`, and turns are taken so that whatever else runs hits both. The memory
is that of a process of its own that reads `SEGDIST_BENCH_IMAGES` (100,000) small images, or a tenth of them. Masks
come to the network's size where they are, against decoding and resizing each over the whole image.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks._process import run
from segdist.core.masks import decode, decode_resized, encode, resize
from segdist.core.panels import encode_jpeg
from segdist.core.records import Instance, Sample
from segdist.datasets.shards import Dataset, write_manifest, write_shard
from segdist.formats.synthetic import Format, Options
from segdist.reading.examples import decode_image

IMAGES, HEIGHT, WIDTH = 400, 480, 640
OBJECTS, IMAGES_PER_SHARD, ROUNDS, SIDE = 10, 64, 7, 1024
READ_ALL = """
import sys
from segdist.reading.examples import decode_image
from segdist.datasets.shards import Dataset
for sample, image_bytes in Dataset.open(sys.argv[1]).rows("train"):
    decode_image(image_bytes)
"""


def main() -> None:
    """Print images a second of each way to read, and the memory over few and many images."""
    with tempfile.TemporaryDirectory() as folder:
        _speed(Path(folder))
    many = int(os.environ.get("SEGDIST_BENCH_IMAGES", "100000"))
    peaks = []
    for count in (many // 10, many):
        with tempfile.TemporaryDirectory() as folder:
            _store(Path(folder), _pictures(64, (48, 64)), count)
            peaks.append(run([sys.executable, "-c", READ_ALL, folder]).megabytes)
        print(f"{count:>8,} images read one after the other: peak memory {peaks[-1]:.0f} MB", flush=True)
    print(f"memory from {many // 10:,} to {many:,} images: x{peaks[1] / peaks[0]:.2f}")
    _masks()


def _masks() -> None:
    """The masks of drawn roofs, as many an image as a facade has, brought to a network's size."""
    source = Format(Options(scene="roofs", count=60, size=SIDE, seed=5))
    rles = [i.mask for sample in source.read(lambda _: None) for i in sample.instances if i.mask]
    for size in (128, 512):
        start = time.process_time()
        whole = [resize(decode(rle), (size, size)) for rle in rles]
        middle = time.process_time()
        parts = [decode_resized(rle, (size, size)) for rle in rles]
        end = time.process_time()
        same = sum(map(np.array_equal, whole, parts))
        before, after = (1000 * seconds / len(rles) for seconds in (middle - start, end - middle))
        print(f"a mask of {SIDE} pixels at {size}: whole {before:.2f} ms (baseline), where it is {after:.2f} ms, "
              f"x{before / after:.1f}; the same in {same} of {len(rles)}")  # fmt: skip


def _speed(folder: Path) -> None:
    pictures = _pictures(IMAGES, (HEIGHT, WIDTH))
    files = [folder / f"{n}.jpg" for n in range(IMAGES)]
    for file, picture in zip(files, pictures, strict=True):
        file.write_bytes(picture)
    dataset = _store(folder / "store", pictures, IMAGES)
    reader = dataset.reader("train", folder / "cache")
    ways: dict[str, Callable[[], Iterator[bytes]]] = {
        "bare loop over files (baseline)": lambda: (file.read_bytes() for file in files),
        "Dataset.rows, in order": lambda: (image or b"" for _, image in dataset.rows("train")),
        "Dataset.reader, at random": lambda: (reader[int(n)][1] for n in np.random.default_rng(0).permutation(IMAGES)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, read in ways.items():
            start = time.process_time()
            for image_bytes in read():
                decode_image(image_bytes)
            seconds[name].append(time.process_time() - start)
    baseline, *_ = (statistics.median(s) for s in seconds.values())
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:34} {IMAGES / median:7.0f} images per CPU-second   x{baseline / median:.2f} (target >= 0.9)")


def _pictures(count: int, size_hw: tuple[int, int]) -> list[bytes]:
    """JPEGs of smooth noise: they decode at the speed of photos."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (size_hw[0] // 16, size_hw[1] // 16, 3)).astype(np.uint8)
        picture = coarse.repeat(16, axis=0).repeat(16, axis=1)
        found.append(encode_jpeg((picture // 2 + rng.integers(0, 64, picture.shape)).astype(np.uint8)))
    return found


def _store(root: Path, pictures: list[bytes], count: int) -> Dataset:
    """A data set of `count` samples with ten objects each; pictures repeat."""
    height, width = decode_image(pictures[0]).shape[:2]
    instances = []
    for n in range(OBJECTS):
        mask_HW = np.zeros((height, width), np.bool_)
        mask_HW[n : height // 2, n * 3 : width // 2 + n] = True
        rle = encode(mask_HW)
        instances.append(Instance("crack", rle, rle.box_xyxy))
    parts = []
    for start in range(0, count, IMAGES_PER_SHARD):
        numbers = range(start, min(start + IMAGES_PER_SHARD, count))
        rows = [
            (Sample(f"{n:08d}", f"{n}.jpg", (height, width), tuple(instances), "train"), pictures[n % len(pictures)])
            for n in numbers
        ]
        parts.append(write_shard(str(root / f"{start:08d}.parquet"), rows))
    return write_manifest(str(root), "dataset", ("crack",), parts)
