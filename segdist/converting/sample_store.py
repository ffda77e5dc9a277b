"""Samples on disk by name, for the length of one command: a million of them need no memory."""

import pickle
import tempfile
import weakref
from collections.abc import Iterator

from segdist.core.records import Sample


class SampleStore:
    """Appends samples to a temporary file and finds them again; gone when it is dropped."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the store
        weakref.finalize(self, self._file.close)
        self._offsets: dict[str, int] = {}

    def add(self, name: str, sample: Sample) -> None:
        """Keep a sample under a name."""
        self._offsets[name] = self._file.seek(0, 2)
        pickle.dump(sample, self._file)

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, name: object) -> bool:
        return name in self._offsets

    def __getitem__(self, name: str) -> Sample:
        self._file.seek(self._offsets[name])
        found: Sample = pickle.load(self._file)  # noqa: S301 - written by this process
        return found

    def get(self, name: str) -> Sample | None:
        """The sample of a name, or None."""
        return self[name] if name in self else None  # noqa: SIM401 - this is what `get` means

    def names(self) -> list[str]:
        """The names in the order in which they were added."""
        return list(self._offsets)

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, self.names())
