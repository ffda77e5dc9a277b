"""A plug-in by its name: `load("models", "sam")` imports `segdist.models.sam` and nothing else.

Ours are the files of a folder. Another distribution brings its own by entry points, whose values name modules:

    [project.entry-points."segdist.models"]
    tiny = "tiny_segmenter.family"
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Literal

from segdist.core import extras
from segdist.core.errors import SpecError, did_you_mean
from segdist.core.spec import TeacherSpec

PluginKind = Literal["models", "formats", "prompts"]
_SINGULAR: Mapping[PluginKind, str] = {
    "models": "model family",
    "formats": "dataset format",
    "prompts": "prompt strategy",
}
_HOLDS = {"models": ("FAMILY",), "formats": ("Options", "Format"), "prompts": ("Options", "NEEDS", "prompts")}
"""What the module of a plug-in must define; see `core.plugins`."""


def names(kind: PluginKind) -> list[str]:
    """The plug-ins of a kind, ours and those of other distributions; no plug-in is imported."""
    return sorted({*_ours(kind), *_outside(kind)})


def load(kind: PluginKind, name: str) -> ModuleType:
    """The module of one plug-in.

    Raises:
        SpecError: there is no such plug-in, two distributions have one of this name, or it cannot be imported.
    """
    entry = _entry(kind, name)
    if entry is None:
        return _import(f"segdist.{kind}.{name}", what=f"{_SINGULAR[kind]} `{name}`")
    module = _import_outside(entry.value, kind, entry)
    if missing := [held for held in _HOLDS[kind] if not hasattr(module, held)]:
        raise _wrong(kind, entry, f"its module `{entry.value}` must define `{'`, `'.join(missing)}`")
    return module


def load_network(family: str) -> ModuleType:
    """The torch side of a model family: the module `network` in its package."""
    load("models", family)
    entry = _entry("models", family)
    if entry is None:
        return _import(f"segdist.models.{family}.network", what=f"model family `{family}`")
    return _import_outside(f"{entry.value}.network", "models", entry)


def distribution(kind: PluginKind, name: str) -> tuple[str, str]:
    """Name and version of the distribution that brings a plug-in; empty for ours.

    Raises:
        SpecError: there is no such plug-in, or two distributions have one of this name.
    """
    entry = _entry(kind, name)
    return (entry.dist.name, entry.dist.version) if entry and entry.dist else ("", "")


def distributions() -> list[str]:
    """The names of the other distributions that bring plug-ins."""
    found = [entry for kind in _SINGULAR for entries in _outside(kind).values() for entry in entries]
    return sorted({entry.dist.name for entry in found if entry.dist})


def check_extra(what: str, extra: str) -> None:
    """Make sure that all that an extra brings is there, before hours are spent.

    Raises:
        SpecError: a library is not installed.
    """
    if missing := extras.missing(extra):
        raise SpecError(extras.needs(what, *missing))


@cache
def _ours(kind: PluginKind) -> frozenset[str]:
    package = importlib.import_module(f"segdist.{kind}")
    return frozenset(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


@cache
def _outside(kind: PluginKind) -> Mapping[str, tuple[EntryPoint, ...]]:
    """The entry points of every name; the installed distributions are listed once in a process."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=f"segdist.{kind}"):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _entry(kind: PluginKind, name: str) -> EntryPoint | None:
    """The entry point of a plug-in; None for ours.

    Raises:
        SpecError: there is no such plug-in, two distributions have one of this name, or it is not written as one.
    """
    entries, is_ours = _outside(kind).get(name, ()), name in _ours(kind)
    if not entries and not is_ours:
        raise SpecError(f"There is no {_SINGULAR[kind]} `{name}`. {did_you_mean(name, names(kind))}")
    if len(entries) + is_ours > 1:
        brought = " and ".join([*(["segdist"] if is_ours else []), *map(_brought_by, entries)])
        raise SpecError(f"A {_SINGULAR[kind]} must have a name of its own, but `{name}` is in {brought}. Uninstall one")
    if not entries:
        return None
    (entry,) = entries
    if not name.isidentifier() or (kind == "models" and name in TeacherSpec.model_fields):
        raise _wrong(kind, entry, "its name must be an identifier and no other key of `model` or `label.teacher`")
    if not all(part.isidentifier() for part in entry.value.split(".")):
        raise _wrong(kind, entry, f"its entry point must name a module, but is `{entry.value}`")
    return entry


def _import(module: str, *, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("segdist"):
            raise
        raise SpecError(extras.needs(f"The {what}", error.name)) from error


def _import_outside(module: str, kind: PluginKind, entry: EntryPoint) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # somebody else's code, which may fail in any way
        raise _wrong(kind, entry, f"`{module}` cannot be imported: {type(error).__name__}: {error}") from error


def _wrong(kind: PluginKind, entry: EntryPoint, reason: str) -> SpecError:
    return SpecError(f"The {_SINGULAR[kind]} `{entry.name}` of {_brought_by(entry)} cannot be used: {reason}")


def _brought_by(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
