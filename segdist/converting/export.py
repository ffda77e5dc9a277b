"""What every conversion needs, whatever the format written: a folder that appears whole, names that never collide."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from segdist.core import storage
from segdist.core.errors import StorageError
from segdist.core.escaping import FILES
from segdist.core.records import Sample
from segdist.reading.coco.export import CONVERSION
from segdist.reading.image_formats import FORMATS, IMAGE_SUFFIXES
from segdist.reading.images import header_of
from segdist.reading.listing import SPLITS


@contextmanager
def new_folder(out: str) -> Iterator[Path]:
    """An empty local folder that becomes `out` when the block ends well, and vanishes when it does not.

    On an object store the files are uploaded one by one, `conversion.json` last: where it is, everything is.

    Raises:
        StorageError: `out` is there already, or cannot be written.
    """
    if storage.exists(out) and storage.find(out):
        raise StorageError(f"{out} must not exist yet, but has files in it. Name another folder, or remove it.")
    if storage.is_local(out):
        with _local_folder(Path(storage.absolute(out))) as folder:
            yield folder
        return
    with TemporaryDirectory(prefix="segdist-") as folder:
        yield Path(folder)
        _upload(Path(folder), out)


@contextmanager
def _local_folder(target: Path) -> Iterator[Path]:
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        try:
            part.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"Cannot write {target}: {error}. Name a folder that you may write to.") from error
        yield part
        if target.exists():
            target.rmdir()  # empty, as was checked; `replace` would refuse a folder on some systems
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _upload(folder: Path, out: str) -> None:
    files = sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda f: (f.name == CONVERSION, f))
    try:
        for file in files:
            storage.upload(file, storage.join(out, file.relative_to(folder).as_posix()))
    except BaseException:
        storage.remove(out)
        raise


class FileNames:
    """A file name for each image: its own where possible, and no two with one stem, in whatever case."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, sample: Sample, image_bytes: bytes) -> str:
        """The name that a sample's image gets; label files that share its stem never collide either."""
        path = PurePosixPath(sample.image_id.replace("\\", "/"))
        folders = [part for part in path.parts[:-1] if part.lower() not in (*SPLITS, "images", "/", "..")]
        suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else _suffix(image_bytes)
        stem = path.stem if path.suffix == suffix else path.name
        digest = hashlib.sha256(sample.image_id.encode()).hexdigest()[:10]
        for candidate in filter(None, (stem, "__".join([*folders, stem]), f"{stem}-{digest}", digest)):
            name = FILES.escape(candidate)
            if name.casefold() not in self._taken:
                break
        self._taken.add(name.casefold())
        return name + suffix


def _suffix(image_bytes: bytes) -> str:
    """The suffix that an encoded image should have."""
    return FORMATS["JPEG" if (kind := header_of(image_bytes).format) == "MPO" else kind][0]
