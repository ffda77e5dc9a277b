"""What the process of a trial tells Prometheus; `measures` says what each number means."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from segdist.core.cards import has_card
from segdist.core.spec import RunSpec
from segdist.pipeline.meters import Gauges, begin, count, gauges

if TYPE_CHECKING:
    from segdist.engine.pace import Work


@contextmanager
def trial_told(sweep: str, run: RunSpec, number: int, *, place: str) -> Iterator[Callable[["Work"], None]]:
    """What tells the work of a trial's process; its gauges are told until the block ends.

    Args:
        sweep: its name.
        run: what the trial learns.
        number: of the trial.
        place: the kind of place that it is stored in.
    """
    from segdist.engine.runtime import peak_bytes

    who = {"sweep": sweep, "family": run.model.family}
    last_at = time.time()

    def look(shown: Gauges) -> None:
        shown.show("segdist_last_step_timestamp_seconds", last_at, **who)
        shown.show("segdist_trial_number", number, **who)
        shown.show("segdist_peak_memory_bytes", peak_bytes(), device="gpu" if has_card() else "cpu", **who)

    def tell(work: "Work") -> None:
        nonlocal last_at
        last_at = time.time()
        count("segdist_train_steps", work.steps, **who)
        count("segdist_trained_images", work.images, **who)
        for part, seconds in work.seconds.items():
            count("segdist_step_seconds", seconds, part=part, **who)

    begin("trial", place=place, **who)
    with gauges(sweep, look):
        yield tell
