"""A plug-in by its file name: `load("models", "sam")` imports `segdist.models.sam` and nothing else."""

import importlib
import pkgutil
from types import ModuleType
from typing import Literal

from segdist.core import extras
from segdist.core.errors import SpecError, did_you_mean

PluginKind = Literal["models", "formats", "prompts"]
_SINGULAR = {"models": "model family", "formats": "dataset format", "prompts": "prompt strategy"}


def names(kind: PluginKind) -> list[str]:
    """The plug-ins of a kind, by listing their folder; nothing is imported."""
    package = importlib.import_module(f"segdist.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(kind: PluginKind, name: str) -> ModuleType:
    """The module of one plug-in.

    Raises:
        SpecError: there is no such plug-in, or a library it needs is not installed.
    """
    if name not in names(kind):
        raise SpecError(f"There is no {_SINGULAR[kind]} `{name}`. {did_you_mean(name, names(kind))}")
    return _import(f"segdist.{kind}.{name}", what=f"{_SINGULAR[kind]} `{name}`")


def load_network(family: str) -> ModuleType:
    """The torch side of a model family: `segdist.models.<family>.network`."""
    load("models", family)
    return _import(f"segdist.models.{family}.network", what=f"model family `{family}`")


def check_extra(what: str, extra: str) -> None:
    """Make sure that all that an extra brings is there, before hours are spent.

    Raises:
        SpecError: a library is not installed.
    """
    if missing := extras.missing(extra):
        raise SpecError(extras.needs(what, *missing))


def _import(module: str, *, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("segdist"):
            raise
        raise SpecError(extras.needs(f"The {what}", error.name)) from error
