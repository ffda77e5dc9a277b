"""What sweeps need on a cluster, looked at from its nodes before anything starts."""

import re
import uuid
from collections import Counter
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
_MOST_NAMED = 4
"""Of the nodes that have the same fault."""
_PROBE = re.compile(r"/\.{1,2}segdist-[0-9a-f]{32}(?:\.[0-9a-f]{32}\.part)?")
"""The file by which a node tries to write: of another name on each."""
_FIXES = {
    "versions": "Versions: install on every node what the driver's has, segdist from one wheel or checkout "
    "(`constraints.txt` holds the rest).",
    "storage": "Storage: mount on every node what the driver's has there, under the same path and writable, or set "
    "`storage` to what all reach, such as s3://BUCKET/PREFIX.",
    "environment": "Environment: set these variables where the driver starts; its workers get them from it.",
}
"""By what is wrong, the sentence that says what mends it."""


@dataclass(frozen=True)
class Answer:
    """What a node has.

    Attributes:
        node: its address, with its id where others have the same.
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
    faults = _Faults()
    for said in _differences(here, {**here, **wanted}):
        faults.add(said, "versions", who="the driver's node")
    names = list(dict.fromkeys(name for spec in specs for name in spec.resources.environment))
    if lacking := not_set(names):
        said = f"lacks {', '.join(lacking)}, which `resources.environment` names"
        faults.add(said, "environment", who="the driver's environment")
    with taken_along([name for name in names if name not in lacking]), connected(is_bare=True) as ray:
        places = list(dict.fromkeys(storage.absolute(spec.storage) for spec in specs))
        _look_at_nodes(ray, places, here, faults)
        say(f"secrets   {', '.join(sorted(travelling())) or 'none'}: by these names, from the driver to its workers")
    problems = [*_of_trackers(specs), *(problem for spec in specs for problem in _of_data(spec))]
    problems = [*faults.said(), *problems]
    if problems:
        raise BackendError(
            "\n".join(["The cluster must be fit for the sweeps, but:", *(f"- {p}" for p in problems), *faults.fixes()])
        )


class _Faults:
    """What is wrong with nodes: each fault once, with those that have it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[str]] = {}

    def add(self, said: str, kind: str = "", *, who: str) -> None:
        """Somebody has a fault, told in the words after a name; `kind` is one of `_FIXES`."""
        self._found.setdefault((said, kind), []).append(who)

    def said(self) -> Iterator[str]:
        """A line for each fault."""
        for (said, _), who in self._found.items():
            if len(who) == 1:
                yield f"{who[0]} {said}"
                continue
            rest = f" and {counted(len(who) - _MOST_NAMED, 'other')}" if len(who) > _MOST_NAMED else ""
            yield f"each of the nodes {', '.join(one.removeprefix('node ') for one in who[:_MOST_NAMED])}{rest} {said}"

    def fixes(self) -> list[str]:
        """What mends them."""
        return [fix for kind, fix in _FIXES.items() if any(kind == of for _, of in self._found)]


def _look_at_nodes(ray: ModuleType, places: Sequence[str], here: Mapping[str, str], faults: _Faults) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sums = {kind: sum(float(node["Resources"].get(kind, 0)) for node in nodes) for kind in ("CPU", "GPU")}
    said = f"{counted(len(nodes), 'node')}, {sums['CPU']:g} CPUs, {sums['GPU']:g} GPUs"
    say(f"cluster   {said}; segdist {here['segdist']}, Ray {here['ray']}, Python {here['python']}")
    with _marked(places, faults) as marks:
        answers = list(_asked(ray, nodes, marks))
    for answer in answers:
        who = f"node {answer.node}"
        if answer.error:
            faults.add(answer.error, who=who)
        for said in _differences(answer.has, here) if answer.has else ():
            faults.add(said, "versions", who=who)
        for place, why in answer.lacks.items():
            faults.add(f"cannot use {place}: {_PROBE.sub('', why)}", "storage", who=who)
    for place in marks:
        if not any(place in answer.lacks or answer.error for answer in answers):
            say(f"storage   {place}: seen and written from {counted(len(answers), 'node')}")


@contextmanager
def _marked(places: Sequence[str], faults: _Faults) -> Iterator[Mapping[str, str]]:
    """Leave a file in each storage, by which another node knows that it sees the same place."""
    marks: dict[str, str] = {}
    try:
        for place in places:
            mark = storage.join(place, f".segdist-{uuid.uuid4().hex}")
            try:
                storage.write_atomic(mark, b"")
            except SegdistError as error:
                faults.add(f"cannot use {place}: {error}", "storage", who="the driver's node")
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
        name: ask.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for name, node in _named(nodes)
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


def _named(nodes: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Nodes by their addresses, and by how Ray's own lists begin their ids where several have one address."""
    addresses = Counter(node["NodeManagerAddress"] for node in nodes)
    for node in nodes:
        address = node["NodeManagerAddress"]
        yield (address if addresses[address] == 1 else f"{address} ({node['NodeID'][:8]})"), node


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
