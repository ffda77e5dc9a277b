"""Which file is meant by a path that was written by another system, on another machine, or from another folder."""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from urllib.parse import unquote

from segdist.reading.listing import Listing, split_of

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """What became of a written path.

    Attributes:
        name: the file that is meant; "" where there is none, or several fit equally well.
        rivals: what fits equally well: files, or other written paths that mean the same file.
        common: how many parts (folders and name) the file and the written path have in common, from their ends.
    """

    name: str = ""
    rivals: tuple[str, ...] = ()
    common: int = 0


class KnownFiles:
    r"""The files of a source, found by the ends of paths.

    The file that is written is taken as it is. Else the one whose path has most parts at its end in common with what is
    written: `C:\data\cam1\0001.png` is `photos/cam1/0001.png`, not `photos/cam2/0001.png`. Case and the way accents
    are written do not count, unless they tell two files apart. A path of one split never means a file of another.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self._parts = {name: _parts(name) for name in self._names}
        self._groups: dict[str, list[str]] = {}
        for name, parts in self._parts.items():
            self._groups.setdefault(parts[-1], []).append(name)
        self._ends: dict[str, dict[Parts, list[str]]] = {}
        self._fits: dict[tuple[Parts, Parts, str, str, str], tuple[str, ...]] = {}
        self._splits = {split_of(name) for name in self._names} - {None}

    def match(self, written: str, *, split: str = "", near: str = "") -> Match:
        """The file that one path means.

        Args:
            written: as it is written in an annotation: relative or not, with slashes of any system, or percent-encoded.
            split: that the annotation belongs to; "" where it does not say.
            near: folder of the annotation, from the same root as the files; the nearer of two that fit is meant.
        """
        if written in self._names:
            return Match(written, common=len(self._parts[written]))
        for text in dict.fromkeys((written, unquote(written))):
            if found := self._fitting(text, split, near):
                common = _common(_parts(text), self._parts[found[0]])
                return Match(found[0], (), common) if len(found) == 1 else Match("", found, common)
        return Match()

    def match_all(self, written: Iterable[str], *, split: str = "", near: str = "") -> Mapping[str, Match]:
        """The file that each of several paths means, never one file for two of them.

        Of paths that end in the name of one file, it belongs to the one that has most in common with it; where two have
        equally much, neither gets it.
        """
        found = {text: self.match(text, split=split, near=near) for text in written}
        claims: dict[str, list[str]] = {}
        for text, match in found.items():
            if match.name:
                claims.setdefault(match.name, []).append(text)
        for name, texts in claims.items():
            if len({_parts(text) for text in texts}) < 2:
                continue  # one path, written in two ways
            most = max(found[text].common for text in texts)
            best = [text for text in texts if text == name] or [t for t in texts if found[t].common == most]
            for text in texts:
                if [text] != best:
                    found[text] = Match("", tuple(other for other in best if other != text), found[text].common)
        return found

    def _fitting(self, text: str, split: str, near: str) -> tuple[str, ...]:
        """The files that fit best: one, none, or several that nothing tells apart."""
        parts, spelt = _parts(text), _spelt(text)
        written_split = split_of("/".join(parts)) or ""
        for length in range(len(parts), 0, -1):
            key = (parts[-length:], spelt[-length:], written_split, split, near)
            if key not in self._fits:
                self._fits[key] = self._best(*key)
            if self._fits[key]:
                return self._fits[key]
        return ()

    def _best(self, end: Parts, spelt: Parts, written_split: str, split: str, near: str) -> tuple[str, ...]:
        """Of the files with an end: those of the split, of them the nearest, of them those that are spelt the same."""
        found = self._with_end(end)
        wanted = written_split or split
        own = [name for name in found if wanted and split_of(name) == wanted]
        if not own:  # where the split has a folder of its own, no other split's file is meant
            is_strict = written_split or split in self._splits
            own = [name for name in found if split_of(name) is None] if is_strict else found
        shared = {name: _common(_parts(near)[::-1], self._parts[name][-2::-1]) if near else 0 for name in own}
        most = max(shared.values(), default=0)
        nearest = [name for name in own if shared[name] == most]
        return tuple([name for name in nearest if _spelt(name)[-len(end) :] == spelt] or nearest)

    def _with_end(self, end: Parts) -> list[str]:
        group = self._groups.get(end[-1], [])
        if len(end) == 1 or not group:
            return group
        if end[-1] not in self._ends:  # most names are those of one file: nothing to prepare
            ends: dict[Parts, list[str]] = {}
            for name in group:
                for length in range(2, len(self._parts[name]) + 1):
                    ends.setdefault(self._parts[name][-length:], []).append(name)
            self._ends[end[-1]] = ends
        return self._ends[end[-1]].get(end, [])


@lru_cache(maxsize=4)
def known_images(files: Listing) -> KnownFiles:
    """The images of a source, prepared once for all that asks for them."""
    return KnownFiles(files.images)


def _parts(path: str) -> Parts:
    """The folders and the name of a path as they are compared."""
    text = path.replace("\\", "/").partition("://")[2] if "://" in path else path.replace("\\", "/")
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", ".") and not (len(part) == 2 and part[1] == ":"):
            parts.append(unicodedata.normalize("NFC", unicodedata.normalize("NFC", part.strip()).casefold()))
    return tuple(parts) or ("",)


def _spelt(path: str) -> Parts:
    """The same with its case."""
    return tuple(unicodedata.normalize("NFC", path.replace("\\", "/")).split("/"))


def _common(one: Parts, other: Parts) -> int:
    """How many parts two paths have in common from their ends."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one[::-1], other[::-1], strict=False)))
