"""What a sweep would do, in a screen of text; looks at the sources, starts nothing."""

from collections.abc import Iterable, Iterator
from itertools import product

from segdist.core.errors import DataError, StorageError
from segdist.core.plugins import declaration
from segdist.core.spec import Range, SearchSpec, SweepSpec, TeacherSpec
from segdist.core.text import counted
from segdist.reading.sources import open_sources
from segdist.sweepfile.alike import may_differ, why_alone
from segdist.sweepfile.label_policies import policies
from segdist.sweepfile.loading import candidates, epochs_of, trials_of
from segdist.tracking import Tracker

_DECIDING = ("model.family", "train.adapter.kind", "train.adapter.dropout")
"""Searched keys on which it depends whether trials can share a process."""
_DRAWN = "synthetic"
"""The format whose images are no photographs."""


def describe(spec: SweepSpec) -> str:
    """The plan of a checked sweep; data that are not there yet are named, not refused: they may be on the cluster."""
    beside = " and ".join(spec.search.objectives)
    lines = [
        f"{spec.name}: {spec.question}" if spec.question else spec.name,
        f"  data      {'; '.join(_source(s.format, s.options()) for s in spec.data.sources)}",
        *(f"  NOT HERE  {problem}" for problem in _missing(spec)),
        f"  labels    {_labels(spec)}",
        f"  families  {', '.join(candidates(spec))}",
        f"  search    {_search(spec)}",
        *(f"    {key:<28} {_range(range_)}" for key, range_ in spec.space.items()),
        f"  resources {_resources(spec)}",
        *_packs(spec),
        f"  scored    {', beside '.join(filter(None, (spec.search.metric, beside)))}, prompts: {spec.evaluate.prompts}",
        *(f"    at most {bound:g} {name}" for name, bound in spec.search.constraints.items()),
        *(f"    budget of {most:g} {kind.replace('_', ' ')}" for kind, most in _budget(spec).items()),
        f"  storage   {spec.storage}",
        f"  tracking  {spec.tracking.uri}",
        *(f"  WARNING   {risk}" for risk in (Tracker.for_sweep(spec).risk, *_teacher_risks(spec)) if risk),
    ]
    return "\n".join(lines)


def teacher_risk(spec: SweepSpec) -> str:
    """What is to be said of teachers of which one may not know such images; "" for nothing."""
    if spec.label is None or all(source.format == _DRAWN for source in spec.data.sources):
        return ""
    return next(filter(None, map(_risk, (spec.label.teacher, *spec.label.teachers))), "")


def _risk(teacher: TeacherSpec) -> str:
    if not teacher.family:
        return ""
    declared = declaration(teacher.family)
    return declared.on_photographs(declared.options.model_validate(teacher.family_options()))


def _teacher_risks(spec: SweepSpec) -> Iterable[str]:
    """Those of every label policy that is searched, each once."""
    return dict.fromkeys(teacher_risk(policy.spec) for policy in policies(spec)) if spec.label else ()


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
    return f"{spec.label.in_words}{hidden}"


def _search(spec: SweepSpec) -> str:
    search = spec.search
    confirm = search.confirm
    again = f"; the best {confirm.trials} again with {counted(confirm.seeds, 'more seed')} each" if confirm else ""
    begins = f", begins from {', '.join(search.warm_start)}" if search.warm_start else ""
    return (
        f"{counted(trials_of(spec), 'trial')} of up to {counted(epochs_of(spec), 'epoch')}, "
        f"{search.sampler}, {_early(search)}{begins}{again}"
    )


def _budget(spec: SweepSpec) -> dict[str, float]:
    return spec.search.budget.model_dump(exclude_none=True) if spec.search.budget else {}


def _early(search: SearchSpec) -> str:
    if stop := search.stop:
        rules = [
            (stop.top_after, f"the best {stop.keep} go on after {counted(stop.top_after or 0, 'epoch')}"),
            (stop.median_after, f"median rule after {counted(stop.median_after or 0, 'epoch')}"),
            (stop.patience, f"patience of {counted(stop.patience or 0, 'epoch')}"),
        ]
        return ", ".join(said for asked, said in rules if asked)
    if search.asha is None:
        return "no early stopping"
    return f"ASHA{' with pauses' * search.asha.pause} after {counted(search.asha.grace_epochs, 'epoch')}"


def _range(range_: Range) -> str:
    values = ", ".join(map(str, range_.choices)) if range_.choices else f"{range_.low} .. {range_.high}"
    when = f"  where {', '.join(f'{k}={v}' for k, v in range_.when.items())}" if range_.when else ""
    return f"{values}{' (log)' if range_.log else ''}{when}"


def _packs(spec: SweepSpec) -> Iterator[str]:
    """Which trials share a process, and why others cannot."""
    if spec.search.pack == 1:
        return
    keys = ", ".join(key for key in spec.space if may_differ(key)) or "none"
    yield f"  packs     up to {counted(spec.search.pack, 'trial')} in a process, which differ at most in {keys}"
    choices = {key: spec.space[key].choices for key in _DECIDING if key in spec.space and spec.space[key].choices}
    for values in product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        if why := why_alone(spec.run.override(chosen)):
            where = ", ".join(f"{key}={value}" for key, value in chosen.items())
            yield f"    alone: {f'{where}: ' if where else ''}{why}"


def _resources(spec: SweepSpec) -> str:
    r = spec.resources
    if r.gpus_per_worker == "auto":
        gpus = ", and 1 GPU where there are any"
    else:
        gpus = f" and {r.gpus_per_worker:g} GPU" if r.gpus_per_worker else ""
    return f"{counted(r.workers, 'worker')} a trial, each {r.cpus_per_worker:g} CPU{gpus}"
