"""Encoded images from outside: the one way to open one, whoever sent it, in bounded memory and time.

Only formats of photos are read. What the header claims is checked before anything is decoded, because a few bytes can
claim gigabytes. What turns an image upright and what its numbers mean is decided here too, by the same rule for the
size that a header promises and for the pixels, for training and for prediction:

- **Orientation** (EXIF, or TIFF's own tag, 1 to 8) is applied once.
- **Eight bits** are taken as they are. Transparent pixels show the colours beneath; where all colours are the same, the
  picture is what the alpha channel holds.
- **More bits** and floating point become eight by a range, see `eight_bits`.
- **Several pages or frames**: the first is used. Reduced copies and masks inside a GeoTIFF are no pages.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,  # noqa: F401 - plugins register themselves
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from segdist.core import extras
from segdist.core.errors import DataError
from segdist.core.plugins import ImageHWC
from segdist.core.records import MAX_PIXELS
from segdist.reading.eight_bits import Note, Strips, to_eight_bits
from segdist.reading.image_formats import FORMATS, brand, other_format

_MEMORY = 1_300_000_000
"""Bytes that decoding one image may take."""
_BYTES_PER_PIXEL: Mapping[str, int] = {"WEBP": 20, "AVIF": 20, "HEIF": 20}
"""Of formats whose decoders hold the whole image beside Pillow's copy and ours; others take 7."""
_BYTES_PER_DEEP_PIXEL = 12
"""Of an image of 16 bits in several channels."""
_PIXEL_SCANS = 2_000_000_000
"""Pixels times scans of a JPEG: a minute is spent on a few kilobytes of empty scans otherwise."""
_MOST_PAGES = 10_000
_PIXELS_AT_ONCE = 1 << 22
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_HOSTILE = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError,
    MemoryError, EOFError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's decoders raise on bytes that were made to break them."""
_TURNS: Mapping[int, Callable[[NDArray[np.generic]], NDArray[np.generic]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""How stored pixels become upright."""
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap height and width."""


class TooLargeError(DataError):
    """An image claims more pixels, or needs more memory, than is spent on one."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded.

    Attributes:
        format: Pillow's name.
        size_hw: height and width, upright.
        orientation: 1 to 8: how the stored pixels lie.
        pages: pages or frames.
    """

    format: str
    size_hw: tuple[int, int]
    orientation: int
    pages: int


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image_HWC: its pixels, upright.
        notes: what there is to say on how its numbers were understood.
    """

    image_HWC: ImageHWC
    notes: tuple[Note, ...]


@contextmanager
def opened(content: bytes, *, name: str = "image") -> Iterator[Image.Image]:
    """An image whose header has been checked and of which nothing is decoded yet; what goes wrong with it is named.

    Args:
        content: the encoded image.
        name: what the error message calls it.

    Raises:
        TooLargeError: it is too large to be decoded.
        DataError: it is in no format that is read, or broken; also where the caller's use of it finds that out.
    """
    with _faults_named(name, content), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken metadata is harmless; large sizes are refused below
        image = Image.open(io.BytesIO(content), formats=_formats(content))
        _check_cost(image, content)
        yield image


@contextmanager
def _faults_named(name: str, content: bytes) -> Iterator[None]:
    """Says in our words what is wrong with an image."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise TooLargeError(_message(name, str(error))) from error
    except UnidentifiedImageError as error:
        raise DataError(_message(name, _unread(content))) from error
    except _HOSTILE as error:
        raise DataError(_message(name, str(error) or type(error).__name__)) from error


def header_of(content: bytes, *, tail: bytes = b"", name: str = "image") -> Header:
    """What an encoded image promises; its beginning is enough, where `tail` is its end.

    Raises:
        DataError: it is no image that can be read.
    """
    with opened(content, name=name) as image:
        orientation = _orientation(image, tail or content)
        width, height = _stored_size(image)
        size_hw = (width, height) if orientation in SIDEWAYS else (height, width)
        return Header(str(image.format), size_hw, orientation, _pages(image, content))


def decode(content: bytes, *, longest: int | None = None, name: str = "image") -> Picture:
    """The pixels of an encoded image in three channels of eight bits, upright.

    Args:
        content: the encoded image.
        longest: when the longest side is needed at this many pixels only, a JPEG is decoded at the nearest eighth
            above it, which is several times quicker; the result may be larger than asked, never smaller.
        name: what the error message calls it.

    Raises:
        DataError: it is no image that can be read, or not complete.
    """
    with opened(content, name=name) as image:
        upright = turn_upright(image, content)
        if longest is not None:
            factor = longest / max(image.size)
            image.draft("RGB", (max(int(image.width * factor), 1), max(int(image.height * factor), 1)))
        is_deep = image.mode in ("RGB", "RGBA", "LA") and ";16" in str(getattr(image, "tile", ""))
        image.load()
        pixels, notes = _deep(image, content) if is_deep else _pixels(image)
        return Picture(upright(pixels), notes)


def from_pillow(image: Image.Image, *, name: str = "image") -> Picture:
    """The pixels of a picture that somebody else opened or made with Pillow, by the same rules.

    Raises:
        DataError: it is too large, or its file is not complete.
    """
    with _faults_named(name, b""):
        if not 0 < image.width * image.height <= MAX_PIXELS:
            raise Image.DecompressionBombError(f"it has {image.width} x {image.height} pixels")
        upright = turn_upright(image, b"")
        image.load()
        pixels, notes = _pixels(image)
        return Picture(upright(pixels), notes)


def turn_upright(image: Image.Image, content: bytes) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What turns the pixels of an opened image (height and width first) as its orientation says; ask before loading."""
    if image.format == "TIFF":  # those Pillow turns while it loads them
        return np.ascontiguousarray
    turn = _TURNS.get(_orientation(image, content), np.asarray)
    return lambda pixels: np.ascontiguousarray(turn(pixels))


def _formats(content: bytes) -> tuple[str, ...]:
    if brand(content) == "HEIF":
        try:
            import pi_heif
        except ImportError as error:
            raise ValueError(extras.needs("HEIC", "pi_heif")) from error
        pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
        return ("HEIF",)
    return tuple(name for name in FORMATS if name in Image.OPEN and name != "HEIF")


def _unread(content: bytes) -> str:
    """Why no reader took the bytes."""
    if not content:
        return "it is empty"
    kind = other_format("", content)
    return f"{kind} is not read" if kind else "it is in no known image format, or damaged"


def _message(name: str, reason: str) -> str:
    return (
        f"An image must be complete and of at most {MAX_PIXELS:,} pixels, but {name} cannot be decoded: {reason}. "
        f"Replace the file, or remove it from the annotations. Formats: {', '.join(FORMATS)}."
    )


def _check_cost(image: Image.Image, content: bytes) -> None:
    """Raises DecompressionBombError for what takes too much memory or time, and ValueError for what no image has."""
    width, height = image.size
    if min(width, height) < 1:
        raise ValueError(f"it has {width} x {height} pixels")
    pixels = width * height
    cost = pixels * _BYTES_PER_PIXEL.get(str(image.format), 7)
    if image.format in ("JPEG", "MPO"):
        scans, is_buffered = _scans(content)
        if scans * pixels > _PIXEL_SCANS and scans > 1:
            raise Image.DecompressionBombError(f"it has {scans} scans of {pixels:,} pixels")
        cost += 8 * pixels if is_buffered else 0
    elif image.format == "TIFF":
        tile = [image.tag_v2.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)]  # type: ignore[attr-defined]
        cost += 8 * math.prod(int(side) for side in tile)
    elif image.format == "JPEG2000":
        cost += 6 * _tile_samples(content, pixels)
    if pixels > MAX_PIXELS or cost > _MEMORY:
        raise Image.DecompressionBombError(f"{width} x {height} pixels of this kind of {image.format} are too many")


def _scans(content: bytes) -> tuple[int, bool]:
    """How many scans a JPEG has, and whether its decoder must hold all coefficients: not all colours in one scan."""
    at, colours = 2, 0
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker, (length,) = content[at + 1], struct.unpack_from(">H", content, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 < len(content):
            colours = 1 << 16 if marker in (0xC2, 0xC6, 0xCA, 0xCE) else content[at + 9]
        if marker == 0xDA:
            return content.count(b"\xff\xda", at), content[at + 4 : at + 5] < bytes([min(colours, 255)])
        at += 1 if marker == 0xFF else 2 + length
    return 1, True


def _tile_samples(content: bytes, pixels: int) -> int:
    """Numbers in the largest tile of a JPEG 2000."""
    at = content.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(content) < at + 42:
        return 4 * pixels
    width, height = struct.unpack_from(">II", content, at + 24)
    (channels,) = struct.unpack_from(">H", content, at + 40)
    return min(int(width) * int(height), pixels) * int(channels)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the pixels as they are stored; of a TIFF, Pillow tells the upright ones."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def _orientation(image: Image.Image, content: bytes) -> int:
    """How the stored pixels lie, from 1 to 8; 1 where nothing that can be understood says."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value: object = image.tag_v2.get(ExifTags.Base.Orientation)
    elif image.format == "PNG" and "exif" not in image.info:  # Pillow would decode all to look behind the pixels
        exif = Image.Exif()
        exif.load(_late_exif(content))
        value = exif.get(ExifTags.Base.Orientation)
    else:
        value = image.getexif().get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and value in _TURNS else 1


def _late_exif(content: bytes) -> bytes:
    """The EXIF chunk behind the pixels of a PNG."""
    at = content.rfind(b"eXIf")
    if at < 4:
        return b""
    (length,) = struct.unpack_from(">I", content, at - 4)
    end = at + 4 + length
    is_whole = content[end : end + 4] == struct.pack(">I", zlib.crc32(content[at:end]))
    return content[at + 4 : end] if is_whole else b""


def _pages(image: Image.Image, content: bytes) -> int:
    """Pages or frames; a JPEG with a second picture inside (a preview, the other eye) has one."""
    if image.format in ("MPO", "JPEG", "HEIF"):
        return 1
    return _tiff_pages(content) if image.format == "TIFF" else int(getattr(image, "n_frames", 1))


def _tiff_pages(content: bytes) -> int:
    """Directories of a TIFF that are pages: no reduced copies, no masks."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", content, 2)[0] == 43
    count_as, entry, offset_as = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    (at,) = struct.unpack_from(order + offset_as, content, 8 if is_big else 4)
    pages, seen = 0, set[int]()
    while at and at not in seen and len(seen) < _MOST_PAGES:
        seen.add(at)
        first = at + struct.calcsize(count_as)
        if first > len(content):
            break  # only the beginning of the file is known
        (count,) = struct.unpack_from(order + count_as, content, at)
        end = first + count * entry
        if end + struct.calcsize(offset_as) > len(content):
            break
        value_at = entry - (8 if is_big else 4)
        kinds = {
            tag: struct.unpack_from(order + ("H" if kind == 3 else "I"), content, place + value_at)[0]
            for place in range(first, min(end, first + 8 * entry), entry)  # tags are in order, these are the first
            for tag, kind in [struct.unpack_from(order + "HH", content, place)]
            if tag in (254, 255)
        }
        pages += not (kinds.get(254, 0) & 0b101 or kinds.get(255, 1) == 2)
        (at,) = struct.unpack_from(order + offset_as, content, end)
    return max(pages, 1)


def _pixels(image: Image.Image) -> tuple[NDArray[np.uint8], tuple[Note, ...]]:
    """The pixels in three channels, as they lie, of an image that has been loaded."""
    if image.mode.startswith("I") or image.mode == "F" or _sample_format(image) == 2:
        grey_HW, notes = to_eight_bits(_strips(image), (image.height, image.width), _no_data(image))
        if _is_white_zero(image):
            grey_HW = 255 - grey_HW
        return np.repeat(grey_HW[..., None], 3, axis=2), notes
    alpha, is_picture = _alpha(image)
    shown = "all its colours are the same; its alpha channel was read as the picture"
    beneath = "it has transparent pixels; the colours beneath are used"
    notes = (("image-transparent", shown if is_picture else beneath),) if alpha is not None else ()
    image = alpha if alpha is not None and is_picture else image
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    found = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in in_strips(image):
        found[top : top + strip.height] = np.asarray(strip.convert("RGB"))
    return found, notes


def picture_in_alpha(image: Image.Image) -> Image.Image | None:
    """The alpha channel of an image all of whose colours are the same, where it varies: what there is to see."""
    alpha, shown = _alpha(image)
    return alpha if shown else None


def _alpha(image: Image.Image) -> tuple[Image.Image | None, bool]:
    """The alpha channel, None where all is opaque; and whether it is the picture."""
    if not image.has_transparency_data:
        return None, False
    with_alpha = image if image.mode in _ALPHA else image.convert("RGBA")
    alpha = with_alpha.getchannel(len(with_alpha.getbands()) - 1)
    low, high = alpha.getextrema()
    if low == 255:
        return None, False
    return alpha, low != high and all(least == most for least, most in with_alpha.getextrema()[:-1])  # type: ignore[misc]


def _deep(image: Image.Image, content: bytes) -> tuple[NDArray[np.uint8], tuple[Note, ...]]:
    """The pixels of an image of 16 bits in several channels, of which Pillow keeps the upper eight."""
    lows, highs = zip(*image.getextrema()[:3], strict=True)
    if max(highs) - min(lows) >= 127:  # all 16 bits are in use
        return _pixels(image)
    message = f"of its 16 bits it uses few: the {max(highs) - min(lows) + 1} levels of the upper eight are left"
    if image.width * image.height * _BYTES_PER_DEEP_PIXEL > _MEMORY:
        return _pixels(image)[0], (("pixels-scaled", message),)
    image.close()
    stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3 or stored.shape[2] < 3:
        raise ValueError("its channels of 16 bits are read only where they use all of them; save it with 8")
    values_HWC = stored[..., 2::-1]
    return to_eight_bits(_rows(values_HWC), values_HWC.shape, None)


def in_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in strips: converting it whole would take its size three times over."""
    rows = max(_PIXELS_AT_ONCE // image.width, 1)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _strips(image: Image.Image) -> Strips:
    """The numbers of an image of one channel in the type that its file has."""
    kind = {(2, "L"): np.int8, (1, "I"): np.uint32}.get((_sample_format(image), image.mode))

    def strips() -> Iterator[tuple[int, NDArray[np.generic]]]:
        for top, part in in_strips(image):
            values = np.asarray(part)
            yield top, values.view(kind) if kind else values

    return strips


def _rows(values: NDArray[Any]) -> Strips:
    rows = max(_PIXELS_AT_ONCE // values.shape[1], 1)
    return lambda: ((top, values[top : top + rows]) for top in range(0, len(values), rows))


def _sample_format(image: Image.Image) -> int:
    """What TIFF says of its numbers: 1 without a sign, 2 with one, 3 floating point; 0 for other formats."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    return int(image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0])


def _is_white_zero(image: Image.Image) -> bool:
    """Whether a TIFF's largest number is black, which Pillow sees to for eight bits only."""
    is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode != "L"
    return is_tiff and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # type: ignore[attr-defined]


def _no_data(image: Image.Image) -> float | None:
    """The number that GDAL's tag calls "no data"."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    try:
        number = float(str(image.tag_v2.get(42113, "")).strip("\0 "))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
