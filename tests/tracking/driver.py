"""A driver in its own process: `python -m tests.tracking.driver STORAGE stay|once`."""

import sys
import time
from pathlib import Path

from segdist.tracking import Tracker
from tests.tracking.conftest import make_spec, start_sweep, start_trial


def main(storage: str, then: str) -> None:
    spec = make_spec(Path(storage))
    tracker = Tracker.for_sweep(spec)
    parent = start_sweep(tracker, spec)
    for number in range(3):
        run = start_trial(tracker, parent, number)
        for epoch in range(1, 6):
            tracker.log_metrics(run, {"val/iou": 0.1 * epoch}, step=epoch)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if then == "stay":
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
