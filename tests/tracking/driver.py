"""A driver in its own process: `python -m tests.tracking.driver STORAGE stay|once`."""

import sys
import time
from pathlib import Path

from segdist.tracking import Tracker
from tests.tracking.conftest import DATASET, make_spec


def main(storage: str, then: str) -> None:
    spec = make_spec(Path(storage))
    tracker = Tracker.for_sweep(spec)
    parent = tracker.start_sweep(spec, file=Path("cracks.yaml"), text="name: cracks", dataset=DATASET)
    for number in range(3):
        run = tracker.start_trial(
            parent, f"key-{number}", number=number, params={"train.lr": 1e-3}, searched=(), dataset=DATASET
        )
        for epoch in range(1, 6):
            tracker.log_epoch(run, {"val/iou": 0.1 * epoch}, epoch=epoch)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if then == "stay":
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
