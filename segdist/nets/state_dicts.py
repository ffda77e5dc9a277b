"""Tensors out of a file of weights, here or at a URI: nothing in it is run, and reading it costs what it weighs.

A pickle says what to call. Here it may call what makes plain tensors; objects of the classes that a caller expects
become stand-ins (`StandIn`), which hold what the file says of them and do nothing.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from segdist.core import storage
from segdist.core.errors import WeightsError

State = dict[str, Tensor]
_PLAIN = {
    "_codecs.encode",
    "builtins.set",
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch.Size",
    "torch.device",
}
"""What a pickle of tensors calls. Torch lets it call more, some of which takes memory at the file's word."""

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_NUMBERS = _FLOATS | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_UNPICKLABLE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, IndexError,
                AttributeError, AssertionError, MemoryError, OverflowError, zipfile.BadZipFile)  # fmt: skip
"""What torch's unpickler lets out where a file is damaged; it looks at nothing twice."""
_MOST_HEADER = 1 << 22
"""Bytes in which a safetensors file names its tensors: some 30,000 of them."""
_PICKLES = 5
"""In a file of torch before 1.6: three of its version, the content, the names of the tensors that follow."""


class StandIn:
    """In place of an object of a pickle: it holds what the file says of the object; nothing of its class runs."""

    held: Mapping[str, object] = {}

    def __new__(cls, *_: object) -> Self:
        """Whatever the object would have been made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.held = state if isinstance(state, dict) else {}

    @property
    def class_name(self) -> str:
        """The full name of the class that the file names."""
        return f"{type(self).__module__}.{type(self).__name__}"


def read(uri: str) -> State:
    """The tensors of a `.safetensors` file, or of a plain torch state dict under any other name.

    Raises:
        StorageError: the file is missing or cannot be read.
        WeightsError: it holds something else, or numbers that are none.
    """
    with local_copy(uri) as file:
        state = safe(file) if uri.endswith(".safetensors") else unpickled(file)
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise WeightsError(f"{uri} must hold a plain torch state dict, but holds {_kind(state)}")
        check(state, uri)
        return state


def check(state: Mapping[str, object], where: str) -> None:
    """Whether all of it is plain numbers.

    Raises:
        WeightsError: something is no tensor, has more values than the file holds, or is not finite; it is named.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{where} must hold a plain torch state dict, but `{name[:100]}` is {_kind(value)}")
        if not is_plain(value):
            raise WeightsError(
                f"{where} must hold plain dense tensors, but `{name[:100]}` is {value.layout}, {value.dtype}, of shape "
                f"{tuple(value.shape)} over {_bytes_held(value)} bytes"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{where} must hold finite numbers, but `{name[:100]}` has NaN or infinity")


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense, of real numbers, and as large as what it holds."""
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in _NUMBERS
        and _bytes_held(value) >= value.numel() * value.element_size()
    )


def fits(value: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor can take the place of another: the same shape, and numbers of the same kind."""
    return value.shape == wanted.shape and value.is_floating_point() == wanted.is_floating_point()


def unpickled(file: Path, stand_ins: Sequence[str] = ()) -> object:
    """What `torch.save` wrote.

    Args:
        file: on this machine.
        stand_ins: beginnings of the full names of classes whose objects become `StandIn`.

    Raises:
        WeightsError: it is damaged, is compressed, or names anything else.
    """
    try:
        named = _named(file)
        unknown = sorted(name for name in named if name not in _PLAIN and not _is_data(name, stand_ins))
        if unknown:
            raise WeightsError(
                f"{file} must be a safetensors file or a plain torch state dict, but calls {', '.join(unknown)[:200]}"
            )
        classes: list[Any] = [
            (_stand_in(name), name) for name in named if name not in _PLAIN and name.startswith(tuple(stand_ins))
        ]
        with torch.serialization.safe_globals(classes):
            return torch.load(file, map_location="cpu", weights_only=True)
    except _UNPICKLABLE as error:
        is_whole = zipfile.is_zipfile(file) and not isinstance(error, (zipfile.BadZipFile, EOFError))
        found = (
            f"cannot be read: {_reason(error)}" if is_whole else f"is cut off, or no file of torch: {fetch_again(file)}"
        )
        raise WeightsError(f"{file} must be a safetensors file or a plain torch state dict, but {found}") from error


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A file on this machine; a copy of one from elsewhere is gone afterwards."""
    if storage.is_local(uri):
        file = Path(storage.absolute(uri))
        if not file.is_file():
            storage.read_head(str(file), 1)  # says what is wrong with it
        yield file
        return
    with TemporaryDirectory(prefix="segdist-") as folder:
        file = Path(folder) / uri.rpartition("/")[2]
        storage.download(uri, file)
        yield file


def safe(file: Path) -> State:
    """The tensors of a safetensors file, whatever it is called.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
        if header_bytes > _MOST_HEADER:  # of nothing but names, it takes hundreds of times its size
            raise WeightsError(f"{file} must have a header of at most {_MOST_HEADER:,} bytes, but has {header_bytes:,}")
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise WeightsError(_damaged(file, error)) from error


def check_whole(file: Path) -> None:
    """Whether a safetensors file is as long as it says; its tensors are not read.

    Raises:
        WeightsError: it is cut off or damaged.
    """
    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(_damaged(file, error)) from error


def fetch_again(file: Path) -> str:
    """What to do about a file that came here in parts."""
    return f"it has {file.stat().st_size:,} bytes. Fetch it again, and compare its size with that at its source"


def _named(file: Path) -> set[str]:
    """Full names of all that a file's pickles call, read without calling any of it."""
    if zipfile.is_zipfile(file):
        return _named_in_zip(file)
    named: set[str] = set()
    with file.open("rb") as stream:
        for _ in range(_PICKLES):
            named |= _named_in(stream)
    return named


def _named_in_zip(file: Path) -> set[str]:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename.lower() for entry in entries]
        if len(set(names)) < len(names):
            raise WeightsError(f"{file} must hold every part once, but holds two of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
            sum(entry.file_size for entry in entries) > file.stat().st_size
        ):
            raise WeightsError(f"{file} must hold its parts as they are, as torch writes them, but they are compressed")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(f"{file} must hold one data.pkl, as torch writes it, but holds {len(pickles)}")
        with archive.open(pickles[0]) as stream:
            return _named_in(stream)


def _named_in(stream: IO[bytes]) -> set[str]:
    """Names in one pickle, with which its bytes are read."""
    named = set()
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            named.add(f"{module}.{name}".replace("__builtin__.", "builtins."))
        elif operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise pickle.UnpicklingError(f"it names what it calls by {operation.name}, which torch does not write")
    return named


def _is_data(name: str, stand_ins: Sequence[str]) -> bool:
    """Whether what a pickle names holds data: a kind of number, or what becomes a stand-in."""
    is_number = name.startswith("torch.") and (
        name.endswith("Storage") or isinstance(getattr(torch, name.removeprefix("torch."), None), torch.dtype)
    )
    return is_number or name.startswith(tuple(stand_ins))


def _stand_in(name: str) -> type[StandIn]:
    module, _, kind = name.rpartition(".")
    return type(kind, (StandIn,), {"__module__": module})


def _bytes_held(value: Tensor) -> int:
    return value.untyped_storage().nbytes() if value.layout is torch.strided else 0


def _kind(value: object) -> str:
    return value.class_name if isinstance(value, StandIn) else type(value).__name__


def _damaged(file: Path, error: BaseException) -> str:
    return f"{file} must be a safetensors file, but is cut off or damaged ({_reason(error)}): {fetch_again(file)}"


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
