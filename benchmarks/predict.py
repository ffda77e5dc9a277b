"""An image of 8,000 x 8,000 pixels in tiles: peak memory of the whole command, and seconds."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from segdist.core.spec import ModelSpec, RunSpec
from segdist.engine import checkpoint
from segdist.formats.synthetic.scenes import draw

SIDE, TILE, LIMIT_GIB = 8_000, 1_024, 2.0


def main() -> None:
    """Print the peak of resident memory of `segdist predict` and its child processes, and what it took."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        options = {"image_size": TILE, "width": 8, "depth": 3}
        model = ModelSpec.model_validate({"family": "unet_cbam", "unet_cbam": options})
        checkpoint.save(checkpoint.build(model, ("roof",)), folder / "model", RunSpec(model=model), ("roof",))
        _picture(folder / "large.png")
        words = ["predict", folder / "model", folder / "large.png", folder / "out", "--tile", TILE, "--write", "masks"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "segdist.cli", *map(str, words)], check=True, capture_output=True)
        seconds = time.perf_counter() - start
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{SIDE} x {SIDE}, tiles of {TILE}: {gib:.2f} GiB, limit {LIMIT_GIB} GiB; {seconds:.0f} s")


def _picture(file: Path) -> None:
    """Drawn roofs, repeated: a PNG of some tens of megabytes."""
    piece = draw("roofs", 3, 1_000)[0]
    image = np.tile(piece, (SIDE // 1_000, SIDE // 1_000, 1))
    assert cv2.imwrite(str(file), image[..., ::-1])
