"""What one driver, one MLflow server and one control store have to do at many GPUs: computed, not run.

Each constant is a figure of RESULTS.md or says that it is assumed. What is beyond one of something is marked.
"""

from collections.abc import Iterable

from segdist.core.spec import LabelSpec
from segdist.pipeline.draining import EVERY as SECONDS_BETWEEN_LOOKS

SECONDS_OF_A_REPORT = 0.054
"""Of the driver's loop; sweeps: 2,000 trials of one report each, all that belongs to a trial counted."""
SECONDS_OF_A_TELLING = 0.055
"""CPU-seconds of the driver's thread that tells MLflow of a trial; sweeps."""
REQUESTS_OF_AN_EPOCH = 2.05
"""To an MLflow server; tracking."""
SECONDS_OF_A_REQUEST = 0.08
"""Assumed: an MLflow server over SQLite, two cores."""
BYTES_OF_A_TRIAL = 10_000
"""Of the driver's memory; sweeps."""
SECONDS_OF_A_UNIT = 0.0043
"""CPU-seconds of the driver for a unit of labelling, of `label.images_per_shard` images; units."""
BYTES_OF_A_UNIT = 10_000
"""Of the driver's memory; units."""
SECONDS_OF_A_NODE = 0.00025
"""CPU-seconds of the control store in each second for a node that idles; nodes."""
SECONDS_OF_A_LOOK = 0.0002
"""CPU-seconds of the control store for a trial that looks for nodes that leave; nodes."""
BYTES_OF_A_NODE = 260_000
"""Of the control store's memory; nodes."""
LABELLED_EACH_SECOND = 20.0
"""Assumed: a teacher that needs 50 ms of a GPU for an image. One core labels 21.7 with the tiny SAM; labelling."""
MINUTES, EPOCHS = 30, 20
"""Assumed: of a trial on one GPU."""
IMAGES = 10_000_000
LARGER = 512
"""Images of a unit where the default is too small."""
GPUS = (8, 64, 256, 1000)


def main() -> None:
    """Print the table."""
    print(f"| trials of {MINUTES} minutes and {EPOCHS} epochs, one a GPU; labels of {IMAGES:,} images | {_row(GPUS)}")
    print("|---" * (len(GPUS) + 1) + "|")
    reports = [gpus * EPOCHS / (60 * MINUTES) for gpus in GPUS]
    ended = [gpus / (60 * MINUTES) for gpus in GPUS]
    loop = [each * SECONDS_OF_A_REPORT for each in reports]
    thread = [each * SECONDS_OF_A_TELLING for each in ended]
    server = [each * REQUESTS_OF_AN_EPOCH * SECONDS_OF_A_REQUEST for each in reports]
    print(f"| reports a second | {_row(f'{one:.2f}' for one in reports)}")
    print(f"| the driver's loop, of a core | {_row(_share(one) for one in loop)}")
    print(f"| its thread that tells MLflow, of a core | {_row(_share(one) for one in thread)}")
    print(f"| MLflow over SQLite, of one worker of its server | {_row(_share(one) for one in server)}")
    looks = [gpus / SECONDS_BETWEEN_LOOKS for gpus in GPUS]
    print(f"| looks for nodes that leave, a second | {_row(f'{one:.0f}' for one in looks)}")
    store = [n * SECONDS_OF_A_NODE + one * SECONDS_OF_A_LOOK for n, one in zip(GPUS, looks, strict=True)]
    print(f"| control store, a node for each GPU: its looks and its nodes, of a core | {_row(map(_share, store))}")
    print(f"| its memory for nodes, MB | {_row(f'{gpus * BYTES_OF_A_NODE / 1e6:.0f}' for gpus in GPUS)}")
    memory = [24 * 2 * gpus * BYTES_OF_A_TRIAL / 1e6 for gpus in GPUS]
    print(f"| the driver's memory after a day of such trials, MB | {_row(f'{one:.0f}' for one in memory)}")
    print(f"| labelling, minutes | {_row(f'{IMAGES / LABELLED_EACH_SECOND / gpus / 60:.0f}' for gpus in GPUS)}")
    for images in (LabelSpec.model_fields["images_per_shard"].default, LARGER):
        units = [gpus * LABELLED_EACH_SECOND / images for gpus in GPUS]
        print(f"| its units of {images} images, {IMAGES / images:,.0f}, a second | {_row(f'{n:.2f}' for n in units)}")
        print(f"| their driver, of a core | {_row(_share(one * SECONDS_OF_A_UNIT) for one in units)}")
        print(
            f"| its memory for all of them, MB | {_row([f'{IMAGES / images * BYTES_OF_A_UNIT / 1e6:.0f}'] * len(GPUS))}"
        )


def _row(cells: Iterable[object]) -> str:
    return " | ".join(map(str, cells)) + " |"


def _share(of_one: float) -> str:
    return f"{of_one:.0%}" if of_one < 0.8 else f"**{of_one:.0%}**"
