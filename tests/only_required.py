"""Hides every installed library that a list of requirements does not bring, as if this machine had nothing else.

Its text is put in front of a program that runs in a process of its own.
"""

import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def brought_by(texts: list[str]) -> set[str]:
    """The distributions that are installed with these requirements."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in texts]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = (str(canonicalize_name(wanted.name)), extra)
            if key not in found:
                found.add(key)
                waiting += list(_asked_for(wanted.name, extra))
    return {name for name, _ in found}


def _asked_for(name: str, extra: str) -> Iterator[Requirement]:
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return  # not for this platform
    for text in texts:
        asked = Requirement(text)
        if asked.marker is None or asked.marker.evaluate({"extra": extra}):
            yield asked


class Hidden:
    """A finder that finds nothing else."""

    def __init__(self, texts: list[str]) -> None:
        self.kept = brought_by(texts)
        self.hidden = {
            module
            for module, names in metadata.packages_distributions().items()
            if not {str(canonicalize_name(name)) for name in names} & self.kept
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse what is hidden; leave the rest to other finders."""
        if name.partition(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"No module named {name!r}: no requirement brings it", name=name)


def hide_others(texts: list[str]) -> Hidden:
    """From here on, only what these requirements bring can be imported, or asked for its version."""
    finder, installed = Hidden(texts), metadata.distribution
    sys.meta_path.insert(0, finder)

    def distribution(distribution_name: str) -> metadata.Distribution:
        if str(canonicalize_name(distribution_name)) not in finder.kept:
            raise metadata.PackageNotFoundError(distribution_name)
        return installed(distribution_name)

    metadata.distribution = distribution
    return finder
