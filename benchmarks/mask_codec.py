"""How many masks a second the shipped mask codec turns into tokens, and what comes back of masks it never saw.

Run it with `OMP_NUM_THREADS=2` for two cores.
"""

import os
import time

import numpy as np

from segdist.core.records import Sample
from segdist.formats.synthetic import Format, Options
from segdist.formats.synthetic.scenes import SCENES
from segdist.nets.paligemma.codec_files import open_codec
from segdist.nets.paligemma.codec_report import codec_report
from segdist.nets.paligemma.objects import encode_masks

MASKS = 10_000
SEED = 9100
"""Of the scenes; the recipe of the shipped codec learns from another one."""
TARGETS = {"rooms": 0.9, "roofs": 0.9}


def main() -> None:
    """Print the round trip for each kind of scene, then masks a second."""
    codec = open_codec()
    print(f"{'round trip':12}{'masks':>7}{'IoU':>8}{'P10':>8}{'tiled':>8}")
    shapes = []
    for scene in SCENES:
        samples = _drawn(scene)
        shapes += [i.mask for s in samples for i in s.instances if i.mask is not None and i.mask.area]
        reports = codec_report(samples, codec, tiles=2).values()
        ious, tiled = ([v for r in reports for v in getattr(r, name)] for name in ("ious", "tiled_ious"))
        line = f"{scene:12}{len(ious):7}{np.mean(ious):8.3f}{np.percentile(ious, 10):8.3f}{np.mean(tiled):8.3f}"
        print(line + (f"   target {TARGETS[scene]}" if scene in TARGETS else ""))
    many = (shapes * (MASKS // len(shapes) + 1))[:MASKS]
    wall, busy = time.perf_counter(), time.process_time()
    for start in range(0, MASKS, 64):
        encode_masks(many[start : start + 64], codec)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    print(f"{MASKS} masks in {wall:.1f} s, {busy:.1f} s of all cores: {MASKS / wall:.0f} masks/s", end="")
    print(
        f" with {os.cpu_count()} cores at load {os.getloadavg()[0]:.1f}; {MASKS / busy:.0f} masks a second of one core"
    )


def _drawn(scene: str) -> list[Sample]:
    drawings = Format(
        Options.model_validate({"scene": scene, "count": 60, "size": 128, "seed": SEED, "empty_share": 0})
    )
    return list(drawings.read(lambda _: None))


if __name__ == "__main__":
    main()
