"""A plan: what a sweep was predicted to take, for people, and beside what it took in the end."""

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from segdist.core import storage
from segdist.core.errors import StorageError
from segdist.core.spec import Strict
from segdist.core.text import counted
from segdist.engine.taken import PEAK, Taken
from segdist.searching import Ledger

PLAN = "plan.json"
"""In a sweep's folder."""


class FamilyPlan(Strict):
    """What one family takes."""

    family: str
    own: Taken
    """At the file's own values."""
    timed: tuple[Taken, ...]
    """At points of the space, to tell the time of an average trial."""
    largest: Taken
    """At the largest point of the space."""
    matters: tuple[str, ...]
    """Searched keys that change what a step holds."""
    micro_batch: int
    """Images of a pass that fit at the largest point."""
    asked: int
    """Images of a pass there as the file has it."""
    lack: str = ""
    """Why those did not fit."""


class Plan(Strict):
    """What a sweep is predicted to take."""

    sweep: str
    trials: int
    epochs: tuple[float, ...]
    """For each epoch, how many trials come to its end."""
    images: dict[str, int]
    nodes: tuple[str, ...]
    at_once: int
    families: tuple[FamilyPlan, ...]
    seconds: dict[str, float]
    """Of the wall clock, by step."""
    trial_seconds: float
    """Of the longest trial that runs to its end."""
    cpu_hours: float
    gpu_hours: float
    money: float | None
    peak_memory: int
    """Bytes of the trial that needs most."""
    disk: dict[str, float]
    """Bytes, by what they hold."""
    uploaded: dict[str, float]
    """Bytes that leave this machine, by where they go."""

    @property
    def wall_seconds(self) -> float:
        """From the start to the report."""
        return sum(self.seconds.values())

    @property
    def disk_bytes(self) -> float:
        """When the sweep is done."""
        return sum(self.disk.values())

    def of_what_ran(self, *, trials: int, epochs: int) -> tuple[float, float]:
        """Seconds and bytes of a sweep that ended early, its report left out of the bytes.

        What is done once counts whole, what is done for each trial or epoch by how many there were.

        Args:
            trials: that trained at all.
            epochs: that they trained together.
        """
        of_trials, of_epochs = trials / self.trials, epochs / sum(self.epochs)
        share = {"search": of_epochs, "evaluation": of_trials}
        shares = {"checkpoints": of_trials, "models": of_trials, "kept models": of_epochs, "report": 0.0}
        return (
            sum(seconds * share.get(step, 1.0) for step, seconds in self.seconds.items()),
            sum(size * shares.get(name, 1.0) for name, size in self.disk.items()),
        )


def resident_bytes(families: Iterable[FamilyPlan]) -> int:
    """Of a node's memory, what a worker of any of them needs at most."""
    return max(max(one.largest.resident, one.own.resident) for one in families)


def planned(folder: str) -> Plan | None:
    """The plan in a sweep's folder; None where there is none, or none that this version can read."""
    uri = storage.join(folder, PLAN)
    if not storage.exists(uri):
        return None
    try:
        return Plan.model_validate(storage.read_json(uri))
    except (StorageError, ValidationError):
        return None


def gigabytes(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _whole(count: float) -> str:
    return f"{count:.0f}"


def against_truth(
    plan: Plan, *, seconds: float, starts: int, ledger: Ledger, folders: Iterable[str]
) -> dict[str, object]:
    """What was predicted, and what came: rows of numbers and of texts.

    Where fewer trials ran than were planned, or some were cut off, time and disk are those predicted for what ran.

    Args:
        plan: of the sweep as it was when it was planned; it may have got other trials since.
        seconds: of all starts so far.
        starts: how many those are.
        ledger: of the sweep: an epoch says how much memory its trial has had.
        folders: all that the sweep has written, but its report.
    """
    peaks = [e.metrics[PEAK] * 1e6 for trial in ledger.trials for e in trial.epochs if PEAK in e.metrics]
    disk = sum(entry.size for folder in folders for entry in storage.find(folder))
    ended = sum(trial.has_ended for trial in ledger.trials)
    ran, epochs = sum(bool(trial.epochs) for trial in ledger.trials), sum(len(t.epochs) for t in ledger.trials)
    is_early = min(ended, ran) < plan.trials or any(trial.is_cut_off for trial in ledger.trials)
    of, in_epochs = "", []
    wall_seconds, disk_bytes = plan.wall_seconds, plan.disk_bytes - plan.disk["report"]
    if is_early:
        of = f", of the {counted(ran, 'trial')} that ran"
        in_epochs = [("epochs", sum(plan.epochs), float(epochs), _whole)]
        wall_seconds, disk_bytes = plan.of_what_ran(trials=ran, epochs=epochs)
    took = "wall time" if starts == 1 else f"wall time, of {counted(starts, 'start')} together"
    rows = [
        ("trials", plan.trials, float(ended), _whole),
        *in_epochs,
        (took + of, wall_seconds, seconds, clock),
        ("peak memory of a trial", plan.peak_memory, max(peaks, default=0.0), gigabytes),
        (f"disk, without the report{of}", disk_bytes, float(disk), gigabytes),
    ]
    return {
        "rows": [
            {"what": what, "predicted": before, "actual": after, "said": [said(before), said(after)]}
            for what, before, after, said in rows
            if after
        ]
    }


def text_of(plan: Plan) -> str:
    """The plan for people, below what `segdist check` says of the sweep."""
    last = len(plan.epochs)
    steps = [e for e in range(1, last) if round(plan.epochs[e]) != round(plan.epochs[e - 1])]
    rungs = [f"{plan.epochs[e - 1]:.0f} to epoch {e}" for e in (*steps, last)]
    lines = [
        f"  images    {', '.join(f'{name} {count}' for name, count in plan.images.items())}",
        f"  trials    {counted(plan.trials, 'trial')}: {', '.join(rungs)}",
        f"  at once   {counted(plan.at_once, 'trial')} on {'; '.join(plan.nodes)}",
        *(line for one in plan.families for line in _family_lines(one)),
        f"  time      {clock(plan.wall_seconds)}: "
        + ", ".join(f"{k} {clock(v)}" for k, v in plan.seconds.items() if v),
        f"  costs     {plan.cpu_hours:.2f} CPU-hours"
        + (f", {plan.gpu_hours:.2f} GPU-hours" if plan.gpu_hours else "")
        + (f", {plan.money:.2f} at `resources.price_per_hour`" if plan.money is not None else ""),
        f"  disk      {gigabytes(plan.disk_bytes)}: "
        + ", ".join(f"{k} {gigabytes(v)}" for k, v in plan.disk.items() if v),
        "            not counted: a copy of the data in each node's SEGDIST_CACHE",
        "  uploaded  " + ("; ".join(f"{gigabytes(v)} to {k}" for k, v in plan.uploaded.items()) or "nothing"),
    ]
    return "\n".join(lines)


def _family_lines(one: FamilyPlan) -> Iterator[str]:
    at = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in one.largest.point.items())
    yield (
        f"  {one.family:<9} {gigabytes(one.own.memory)}, {1000 * one.own.step_seconds:.0f} ms a step of "
        f"{one.own.batch}, "
        f"{1000 * one.own.score_seconds:.0f} ms an image scored"
    )
    if at:
        yield (
            f"            largest point ({at}): {gigabytes(one.largest.memory)}, "
            f"{1000 * one.largest.step_seconds:.0f} ms a step"
        )
    if one.lack:
        yield (
            f"            a pass of {one.asked} does not fit ({one.lack}): "
            f"`resources.micro_batch: {one.micro_batch}` does"
        )
