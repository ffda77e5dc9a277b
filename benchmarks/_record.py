"""Records `benchmarks/tables/*.parquet`: a grid of configurations, each trained; `python -m benchmarks._record`.

Half an hour of one core. What was recorded before stays in a file beside the table until the table is whole.
"""

import json
import sys
from collections.abc import Iterator
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
    for scene in wanted:
        write(scene)


def write(scene: str) -> None:
    """The table of a scene, from what was recorded."""
    table = pa.Table.from_pylist(list(_recorded(scene)))
    image_iou = table.column("image_iou").cast(pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index("image_iou"), "image_iou", image_iou)
    pq.write_table(table, FOLDER / f"{scene}.parquet", compression="zstd")
    _lines(scene).unlink()


def _record(scene: str, seed: int) -> None:
    done = {(row["seed"], *(row[key] for key in GRID)) for row in _recorded(scene)}
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


def _recorded(scene: str) -> Iterator[dict[str, Any]]:
    if _lines(scene).exists():
        yield from map(json.loads, _lines(scene).read_text().splitlines())


def _lines(scene: str) -> Path:
    return FOLDER / f"{scene}.jsonl"


if __name__ == "__main__":
    main(sys.argv[1:])
