"""Records `benchmarks/tables/*.parquet`: a grid of configurations, each trained; `python -m benchmarks._record`.

Its seconds are those of the CPU (`time.process_time`), of one thread: what else the machine does changes none of them.
Half an hour of one core. What the tables have is not recorded again; what came since the last whole seed stays in a
file beside the table.
"""

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._curves import curve
from benchmarks._tables import FOLDER, GRID

SCENES = ("cracks", "rooms")
SEEDS = (0, 1)


def main(scenes: list[str]) -> None:
    """Record the tables of these scenes, or of all."""
    FOLDER.mkdir(exist_ok=True)
    wanted = scenes or list(SCENES)
    for seed, scene in product(SEEDS, wanted):
        _record(scene, seed)
        if _lines(scene).exists():
            write(scene)


def write(scene: str) -> None:
    """The table of a scene, from what it had and what was recorded since."""
    table = pa.Table.from_pylist(list(_recorded(scene).values()))
    image_iou = table.column("image_iou").cast(pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index("image_iou"), "image_iou", image_iou)
    whole = FOLDER / f"{scene}.parquet.part"
    pq.write_table(table, whole, compression="zstd")
    whole.replace(_table(scene))
    _lines(scene).unlink()


def _record(scene: str, seed: int) -> None:
    done = {key[:-1] for key in _recorded(scene)}
    for point in product(*GRID.values()):
        values = dict(zip(GRID, point, strict=True))
        if (seed, *point) in done:
            continue
        epochs = curve(scene, values, seed)
        with _lines(scene).open("a") as file:
            for number, epoch in enumerate(epochs, start=1):
                row = {**values, "seed": seed, "epoch": number, "seconds": round(epoch.seconds, 3), "iou": epoch.iou}
                file.write(json.dumps({**row, "image_iou": epoch.image_ious}) + "\n")
        print(scene, seed, values, f"{max(epoch.iou for epoch in epochs):.3f}", flush=True)


def _recorded(scene: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by seed, searched values and epoch."""
    rows: list[dict[str, Any]] = []
    if _table(scene).exists():
        rows += pq.read_table(_table(scene)).to_pylist()
    if _lines(scene).exists():
        rows += map(json.loads, _lines(scene).read_text().splitlines())
    return {(row["seed"], *(row[key] for key in GRID), row["epoch"]): row for row in rows}


def _table(scene: str) -> Path:
    return FOLDER / f"{scene}.parquet"


def _lines(scene: str) -> Path:
    return FOLDER / f"{scene}.jsonl"


if __name__ == "__main__":
    main(sys.argv[1:])
