"""What it costs a trial to tell Prometheus of its work: beside the smallest step that a trial may have.

Time is the processor's, of the process that trains with all its threads.
"""

import time
from collections.abc import Callable

import torch

from segdist.engine.pace import EVERY, Pace, Part, Work
from segdist.pipeline.cluster import connected
from segdist.pipeline.meters import EVERY as GAUGES_EVERY
from segdist.pipeline.meters import Gauges
from segdist.pipeline.trial_meters import trial_told
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run

STEPS, TIMES = 20_000, 2_000
PARTS: tuple[Part, ...] = ("data", "forward", "backward", "update")


def main() -> None:
    """Print seconds a step, and what of a second of training the telling takes."""
    step = _step_seconds()
    each = _pace_seconds()
    with connected():
        told, shown = _telling_seconds()
    share = each / step + told / EVERY + shown / GAUGES_EVERY
    print(f"a step of the smallest U-Net (8 channels, 32 pixels, batch of 2): {1000 * step:.2f} ms of CPU")
    print(f"its parts are added up:          {1e6 * each:7.1f} us a step    {100 * each / step:.3f} %")
    print(f"Ray is told, once a second:      {1e6 * told:7.1f} us           {100 * told / EVERY:.3f} %")
    print(f"gauges are set, every 5 seconds: {1e6 * shown:7.1f} us           {100 * shown / GAUGES_EVERY:.3f} %")
    print(f"together                                              {100 * share:.2f} % (target: < 1 %)")


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _each(work: Callable[[], None]) -> float:
    start = time.process_time()
    for _ in range(TIMES):
        work()
    return (time.process_time() - start) / TIMES


def _step_seconds() -> float:
    from segdist.engine.fit import fit

    torch.set_num_threads(1)
    rows, val = roofs(64), roofs(2, seed=1)

    def seconds(epochs: int) -> float:
        run = tiny_run(epochs=epochs, batch_size=2, checkpoint_every=epochs)
        return _cpu(lambda: fit(run, CLASSES, train=rows, val=val, report=Reports()))

    seconds(1)
    return (seconds(9) - seconds(1)) / (8 * len(rows) / 2)


def _pace_seconds() -> float:
    pace = Pace(lambda _: None, torch.device("cpu"))

    def steps() -> None:
        for _ in range(STEPS):
            for part in PARTS:
                with pace.part(part):
                    pass
            pace.stepped(2)

    return _cpu(steps) / STEPS


def _telling_seconds() -> tuple[float, float]:
    work = Work(10, 80, dict.fromkeys((*PARTS, "score", "report"), 0.1))
    gauges = Gauges()
    for name in ("segdist_last_step_timestamp_seconds", "segdist_trial_number"):
        gauges.show(name, 1.0, sweep="s", family="f")
    gauges.show("segdist_peak_memory_bytes", 1.0, sweep="s", family="f", device="cpu")
    with trial_told("s", tiny_run(), 0, place="local") as tell:
        told = _each(lambda: tell(work))
    return told, _each(gauges.tell)
