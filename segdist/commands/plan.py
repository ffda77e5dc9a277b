"""What a sweep would do, in a screen of text; looks at the sources, starts nothing."""

from collections.abc import Iterator

from segdist.core.errors import DataError, StorageError
from segdist.core.spec import Range, SweepSpec
from segdist.core.text import counted
from segdist.reading.sources import open_sources
from segdist.sweepfile.loading import candidates, epochs_of, trials_of
from segdist.tracking import Tracker


def describe(spec: SweepSpec) -> str:
    """The plan of a checked sweep; data that are not there yet are named, not refused: they may be on the cluster."""
    lines = [
        f"{spec.name}: {spec.question}" if spec.question else spec.name,
        f"  data      {'; '.join(_source(s.format, s.options()) for s in spec.data.sources)}",
        *(f"  NOT HERE  {problem}" for problem in _missing(spec)),
        f"  labels    {_labels(spec)}",
        f"  families  {', '.join(candidates(spec))}",
        f"  search    {_search(spec)}",
        *(f"    {key:<28} {_range(range_)}" for key, range_ in spec.space.items()),
        f"  resources {_resources(spec)}",
        f"  scored    {spec.search.metric}, prompts: {spec.evaluate.prompts}",
        f"  storage   {spec.storage}",
        f"  tracking  {spec.tracking.uri}",
        *([f"  WARNING   {risk}"] if (risk := Tracker.for_sweep(spec).risk) else []),
    ]
    return "\n".join(lines)


def _missing(spec: SweepSpec) -> Iterator[str]:
    for source in open_sources(spec.data):
        try:
            source.signature()
        except (DataError, StorageError) as error:
            yield str(error)


def _source(name: str, options: dict[str, object]) -> str:
    return f"{name} ({', '.join(f'{k}={v}' for k, v in options.items())})"


def _labels(spec: SweepSpec) -> str:
    if spec.label is None:
        return "as they are"
    hidden = f"; masks hidden in {', '.join(spec.data.boxes_only)}" if spec.data.boxes_only else ""
    teacher = spec.label.teacher.family or spec.label.teacher.trained
    how = " and ".join(dict.fromkeys(prompt.strategy for prompt in spec.label.prompts))
    return f"{teacher} by {how} prompts{hidden}"


def _search(spec: SweepSpec) -> str:
    early = f"ASHA after {counted(spec.search.asha.grace_epochs, 'epoch')}" if spec.search.asha else "no early stopping"
    return (
        f"{counted(trials_of(spec), 'trial')} of up to {counted(epochs_of(spec), 'epoch')}, "
        f"{spec.search.sampler}, {early}"
    )


def _range(range_: Range) -> str:
    values = ", ".join(map(str, range_.choices)) if range_.choices else f"{range_.low} .. {range_.high}"
    when = f"  where {', '.join(f'{k}={v}' for k, v in range_.when.items())}" if range_.when else ""
    return f"{values}{' (log)' if range_.log else ''}{when}"


def _resources(spec: SweepSpec) -> str:
    r = spec.resources
    gpus = f" and {r.gpus_per_worker:g} GPU" if r.gpus_per_worker else ""
    return f"{r.workers} worker{'s' * (r.workers > 1)} a trial, each {r.cpus_per_worker:g} CPU{gpus}"
