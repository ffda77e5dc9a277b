"""What a frozen encoder makes of an image, kept on disk: computed once, then read.

An Arrow file an image, named by the encoder's weights and the image's pixels, so that neither other weights nor another
augmentation are ever mistaken for it: one row, a column a level, each a tensor in half precision.

Trials of one node that see the same images at the same time divide them: who claims an image encodes it, the others
wait for the file.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from segdist.core.errors import StorageError
from segdist.core.plugins import ImageHWC
from segdist.core.storage import cache_dir

_LOG = logging.getLogger(__name__)
_SAMPLED = 256
"""Values of each tensor that name the weights: training moves nearly all of them."""
_ENDING = ".arrow"
_CLAIM_ENDING = ".claim"
_CLAIM_HOLDS = 30.0
"""Seconds after which a claim counts no more: who made it is gone, or too slow to wait for."""
_LOOKS_EACH = 0.005
"""Seconds between two looks for what another process encodes."""
_FREED = 0.1
"""Share of the space that is freed once it is used up."""
Features = list[Tensor]
"""What the encoder makes of images: one tensor a level, images first."""


def embeddings_folder() -> Path:
    """Where embeddings are kept on this machine."""
    return cache_dir() / "embeddings"


class EmbeddingCache:
    """The embeddings of one encoder.

    Attributes:
        hits: images whose embedding was read.
        misses: images whose embedding was not there.
    """

    def __init__(self, encoder: Sequence[nn.Module], *, image_size: int, max_bytes: int) -> None:
        self._folder = embeddings_folder() / f"{_digest(encoder)}-{image_size}"
        self._max_bytes = max_bytes
        self._used: int | None = None
        self._warned = False
        self.hits = self.misses = 0

    def key(self, image_HWC: ImageHWC) -> str:
        """Names an image at the network's scale by its pixels."""
        digest = hashlib.blake2b(np.ascontiguousarray(image_HWC).data, digest_size=16)
        digest.update(repr(image_HWC.shape).encode())
        return digest.hexdigest()

    def read(self, key: str) -> Features | None:
        """The levels of one image's embedding, half precision; None where it has to be computed."""
        file = self._folder / f"{key}{_ENDING}"
        found: Features = []
        try:
            found = _load(file)
            os.utime(file)  # the least recently used go first
        except FileNotFoundError:
            pass
        except (pa.ArrowException, OSError) as error:
            _LOG.warning("the cached embedding %s cannot be read (%s) and is computed anew", file, error)
        self.hits, self.misses = self.hits + bool(found), self.misses + (not found)
        return found or None

    def claim(self, key: str) -> bool:
        """Whether this process is to encode an image; not where another one is about to, or has by now.

        Raises:
            StorageError: the folder cannot be written.
        """
        claim = self._claim(key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if time.time() - _last_use(claim) > _CLAIM_HOLDS:
                claim.unlink(missing_ok=True)
            claim.touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError as error:
            raise _unwritable(claim, error) from error
        if (self._folder / f"{key}{_ENDING}").exists():
            self.release(key)
            return False
        return True

    def release(self, key: str) -> None:
        """Whoever waits for an image need not wait any more."""
        with suppress(OSError):  # then they wait until the claim counts no more
            self._claim(key).unlink(missing_ok=True)

    def awaited(self, key: str) -> Features | None:
        """The embedding that another process is encoding; None where it gave up."""
        claim = self._claim(key)
        while time.time() - _last_use(claim) < _CLAIM_HOLDS:
            time.sleep(_LOOKS_EACH)
        return self.read(key)

    def _claim(self, key: str) -> Path:
        return self._folder / f".{key}{_CLAIM_ENDING}"

    def write(self, key: str, levels: Features) -> None:
        """Keep the embedding of one image.

        Raises:
            StorageError: the folder cannot be written.
        """
        file = self._folder / f"{key}{_ENDING}"
        part = file.with_name(f".{uuid.uuid4().hex}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _save(part, levels)
            size = part.stat().st_size
            part.replace(file)
            self._evict(size)
        except OSError as error:
            raise _unwritable(file, error) from error
        finally:
            with suppress(OSError):  # the error above says more
                part.unlink(missing_ok=True)
            self.release(key)

    def _evict(self, written: int) -> None:
        """Remove embeddings, of any encoder, that were not used for the longest time, once there are too many."""
        self._used = _bytes_in(embeddings_folder()) if self._used is None else self._used + written
        if self._used <= self._max_bytes:
            return
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "cached embeddings fill %.1f GB and the oldest are removed; images augmented at random come back in "
                "other trials of the same seed alone: leave `train.augment` empty or `[flip]`, or raise "
                "`embeddings_gb`",
                self._max_bytes / 1e9,
            )
        files = sorted(embeddings_folder().rglob(f"*{_ENDING}"), key=_last_use)
        self._used = _bytes_in(embeddings_folder())  # other processes write too
        for file in files:
            if self._used <= self._max_bytes * (1 - _FREED):
                return
            self._used -= _size(file)
            file.unlink(missing_ok=True)


def _unwritable(file: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot write the embedding {file}: {error}. Set SEGDIST_CACHE to a local folder with free space, or "
        "`embeddings: compute`."
    )


def _save(file: Path, levels: Features) -> None:
    rows = [level.half().cpu().contiguous()[None].numpy() for level in levels]
    columns = [pa.FixedShapeTensorArray.from_numpy_ndarray(row) for row in rows]
    table = pa.table(columns, names=[f"level_{n}" for n in range(len(levels))])
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _load(file: Path) -> Features:
    """The levels; the values are read into memory, because another process may remove the file."""
    with pa.OSFile(str(file)) as opened, pa.ipc.open_file(opened) as reader:
        (row,) = reader.read_all().to_batches()
    return [torch.from_numpy(column.to_numpy_ndarray()[0].copy()) for column in row.columns]


def _digest(encoder: Sequence[nn.Module]) -> str:
    """Names an encoder by values spread over each of its tensors: quick also for gigabytes, the same on any device."""
    digest = hashlib.sha256()
    for module in encoder:
        for name, value in sorted(module.state_dict().items()):
            flat = value.detach().flatten()
            places = torch.linspace(0, len(flat) - 1, min(len(flat), _SAMPLED)).long()
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(flat[places.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _bytes_in(folder: Path) -> int:
    return sum(_size(file) for file in folder.rglob(f"*{_ENDING}"))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # another process made room
        return 0


def _last_use(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
