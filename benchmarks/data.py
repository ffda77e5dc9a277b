"""Checking a large COCO file against pycocotools reading it.

`SEGDIST_BENCH_IMAGES=10000` makes a smaller file; ten annotations an image. With 100,000 images (the default) a second
file of a tenth of the size shows whether memory stays flat.
"""

import os
import sys
import tempfile
from pathlib import Path

from benchmarks._coco import write_coco
from benchmarks._process import Cost, run

BASELINE = """
import sys
from pycocotools.coco import COCO
coco = COCO(sys.argv[1])
for annotation in coco.anns.values():
    coco.annToRLE(annotation)
"""
"""The named baseline: parse, index, and every mask as run lengths."""


def main() -> None:
    """Print seconds and memory of both."""
    images = int(os.environ.get("SEGDIST_BENCH_IMAGES", "100000"))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = _compare(Path(folder) / "large.json", images)
        small, _ = _compare(Path(folder) / "small.json", images // 10)
    limit = theirs.megabytes / 2
    print(f"seconds / pycocotools {ours.seconds / theirs.seconds:.2f} (target <= 1); ", end="")
    print(f"peak memory {ours.megabytes:.0f} MB of {limit:.0f} allowed (half of pycocotools)")
    print(f"memory from {images // 10:,} to {images:,} images: x{ours.megabytes / small.megabytes:.2f}")


def _compare(file: Path, images: int) -> tuple[Cost, Cost]:
    write_coco(file, images)
    print(f"{images:,} images, {images * 10:,} annotations, {file.stat().st_size / 1e6:.0f} MB", flush=True)
    validate = ["data", "validate", str(file), "--no-images", "--manifest", str(file.with_suffix(".manifest"))]
    theirs = run([sys.executable, "-c", BASELINE, str(file)])
    ours = run([sys.executable, "-m", "segdist.cli", *validate])
    for name, cost in (("pycocotools: COCO + annToRLE (baseline)", theirs), ("segdist data validate --manifest", ours)):
        ratios = (getattr(cost, k) / getattr(theirs, k) for k in ("seconds", "cpu_seconds", "megabytes"))
        ratio = ", ".join(f"x{r:.2f}" for r in ratios)
        print(
            f"  {name:42} {cost.seconds:7.1f} s {cost.cpu_seconds:7.1f} CPU-s {cost.megabytes:6.0f} MB   {ratio}",
            flush=True,
        )
    return ours, theirs
