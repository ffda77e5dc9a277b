"""What sweeps need on a cluster, looked at from its nodes before anything starts."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType

from segdist.core import storage
from segdist.core.errors import BackendError, SegdistError
from segdist.core.provenance import installed
from segdist.core.registry import distributions
from segdist.core.spec import SweepSpec
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.pipeline.cluster import connected
from segdist.pipeline.travelling import not_set, taken_along, travelling
from segdist.reading.sources import open_sources
from segdist.sweepfile.loading import load
from segdist.tracking import Tracker

_SECONDS = 120.0
"""In which each node must have answered: the first process there imports much."""


@dataclass(frozen=True)
class Answer:
    """What a node has.

    Attributes:
        node: its address.
        has: versions by what they are of; empty where segdist is not there, or too old to say.
        lacks: by storage, why it cannot be used there.
        error: why it could not answer.
    """

    node: str
    has: Mapping[str, str] = field(default_factory=dict)
    lacks: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def check_from_cluster(asked: Sequence[tuple[str, Sequence[str]]], wanted: Mapping[str, str]) -> None:
    """Look at all that sweeps need, and name everything that is not as it must be.

    Args:
        asked: sweep files with their overrides.
        wanted: versions of whoever submits them; empty for those of this process.

    Raises:
        SpecError: a sweep file is wrong, or needs what is not here.
        BackendError: the cluster is not fit for the sweeps; every reason is named.
    """
    specs = [load(file, overrides) for file, overrides in asked]
    here = installed(distributions())
    problems = [f"the driver's node {said}" for said in _differences(here, {**here, **wanted})]
    names = list(dict.fromkeys(name for spec in specs for name in spec.resources.environment))
    if lacking := not_set(names):
        problems.append(f"the driver's environment lacks {', '.join(lacking)}, which `resources.environment` names")
    with taken_along([name for name in names if name not in lacking]), connected(is_bare=True) as ray:
        places = list(dict.fromkeys(storage.absolute(spec.storage) for spec in specs))
        problems += _from_nodes(ray, places, here)
        say(f"secrets   {', '.join(sorted(travelling())) or 'none'}: by these names, from the driver to its workers")
    problems += _of_trackers(specs)
    for spec in specs:
        problems += _of_data(spec)
    if problems:
        raise BackendError("\n".join(["The cluster must be fit for the sweeps, but:", *(f"- {p}" for p in problems)]))


def _from_nodes(ray: ModuleType, places: Sequence[str], here: Mapping[str, str]) -> list[str]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sums = {kind: sum(float(node["Resources"].get(kind, 0)) for node in nodes) for kind in ("CPU", "GPU")}
    said = f"{counted(len(nodes), 'node')}, {sums['CPU']:g} CPUs, {sums['GPU']:g} GPUs"
    say(f"cluster   {said}; segdist {here['segdist']}, Ray {here['ray']}, Python {here['python']}")
    problems: list[str] = []
    with _marked(places, problems) as marks:
        answers = list(_asked(ray, nodes, marks))
    for answer in answers:
        if answer.error:
            problems.append(f"node {answer.node} {answer.error}")
        problems += [f"node {answer.node} {said}" for said in _differences(answer.has, here) if answer.has]
        problems += [f"node {answer.node} cannot use {place}: {why}" for place, why in answer.lacks.items()]
    for place in marks:
        if not any(place in answer.lacks or answer.error for answer in answers):
            say(f"storage   {place}: seen and written from {counted(len(answers), 'node')}")
    return problems


@contextmanager
def _marked(places: Sequence[str], problems: list[str]) -> Iterator[Mapping[str, str]]:
    """Leave a file in each storage, by which another node knows that it sees the same place."""
    marks: dict[str, str] = {}
    try:
        for place in places:
            mark = storage.join(place, f".segdist-{uuid.uuid4().hex}")
            try:
                storage.write_atomic(mark, b"")
            except SegdistError as error:
                problems.append(f"the driver's node: {error}")
            else:
                marks[place] = mark
        yield marks
    finally:
        for mark in marks.values():
            storage.remove(mark)


def _asked(ray: ModuleType, nodes: Sequence[Mapping[str, str]], marks: Mapping[str, str]) -> Iterator[Answer]:
    """What each node says; one that does not answer in time is an answer, too."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(_question(travelling(), dict(marks)))
    asked = {
        node["NodeManagerAddress"]: ask.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    }
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SECONDS)
    for name, reference in asked.items():
        if reference not in ready:
            yield Answer(name, error=f"does not answer within {_SECONDS:.0f} seconds")
            continue
        try:
            has, lacks, error = ray.get(reference)
        except ray.exceptions.RayError as failed:
            yield Answer(name, error=f"cannot run anything: {str(failed).strip().splitlines()[-1]}")
        else:
            yield Answer(name, has, lacks, error)


def _question(
    values: Mapping[str, str], marks: Mapping[str, str]
) -> Callable[[], tuple[dict[str, str], dict[str, str], str]]:
    """What runs on a node: a function that travels whole, since the module that it is from may not be there."""

    def answer() -> tuple[dict[str, str], dict[str, str], str]:
        import os

        os.environ.update(values)
        lacks = {}
        try:
            from segdist.core import storage as here
            from segdist.core.errors import SegdistError as Refused
            from segdist.core.provenance import installed as versions
            from segdist.core.registry import distributions as plugins
        except ImportError as error:
            return {}, {}, f"has no segdist that could answer: {error}"
        for place, mark in marks.items():
            try:
                here.check_writable(place)
                if not here.exists(mark):
                    lacks[place] = "it is another place there: what the driver wrote is not in it"
            except Refused as error:
                lacks[place] = str(error)
        return versions(plugins()), lacks, ""

    return answer


def _differences(has: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    """What is not of the version that it must be, in words after the name of a node."""
    for what in sorted({*has, *wanted}):
        one, other = has.get(what, ""), wanted.get(what, "")
        if one.partition("+")[0] != other.partition("+")[0]:  # torch 2.13.0+cpu computes as torch 2.13.0 does
            yield (
                f"has {what} {one}, not {other}"
                if one and other
                else f"{'has' if one else 'lacks'} {what} {one or other}"
            )


def _of_trackers(specs: Sequence[SweepSpec]) -> list[str]:
    """Which MLflow cannot be written to; each is asked once."""
    problems, uris = list[str](), set[str]()
    for spec in specs:
        try:
            tracker = Tracker.for_sweep(spec)
            if tracker.uri not in uris:
                uris.add(tracker.uri)
                tracker.check()
                say(f"tracking  {tracker.uri}: answers")
        except SegdistError as error:
            problems.append(f"{spec.name}: {error}")
    return problems


def _of_data(spec: SweepSpec) -> list[str]:
    """Which images and annotations of a sweep cannot be read."""
    problems = list[str]()
    for source in open_sources(spec.data):
        try:
            source.signature()
        except SegdistError as error:
            problems.append(f"{spec.name}: {error}")
    if not problems:
        say(f"data      of {spec.name}: can be read")
    return problems
