"""Which image formats are read, and what files of others look like."""

from collections.abc import Mapping

FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpx"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
"""What is read, by Pillow's names, with the suffixes that files of it have; HEIF with the extra `heic`."""
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
NO_IMAGES = (
    ".txt", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".csv", ".tsv", ".md", ".html", ".py", ".parquet", ".arrow",
    ".npy", ".npz", ".pt", ".pth", ".safetensors", ".onnx", ".zip", ".tar", ".gz", ".tgz", ".pdf", ".log", ".names",
)  # fmt: skip
"""Suffixes of files beside images that are none, so that nobody needs to look into them."""
LONGEST_MAGIC = 16
"""Bytes that tell the format of a file."""
_MAGIC = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
"""How files of the formats begin that are read; but for BMP and PPM, whose two letters begin texts as well."""
_OTHER_MAGIC: Mapping[bytes, str] = {
    b"\0\0\1\0": "ICO", b"\0\0\2\0": "CUR", b"icns": "ICNS", b"8BPS": "PSD", b"%!PS": "EPS", b"%PDF": "PDF",
    b"\xc5\xd0\xd3\xc6": "EPS", b"<svg": "SVG", b"DDS ": "DDS", b"qoif": "QOI", b"gimp xcf": "XCF",
    b"FUJIFILMCCD-RAW": "RAF", b"\x76\x2f\x31\x01": "EXR", b"#?RADIANCE": "HDR", b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL", b"SIMPLE  =": "FITS",
}  # fmt: skip
"""How files of other formats begin."""
_OTHER_SUFFIXES = (
    ".ico", ".cur", ".icns", ".psd", ".psb", ".eps", ".ps", ".ai", ".svg", ".svgz", ".wmf", ".emf", ".dds", ".tga",
    ".pcx", ".qoi", ".xcf", ".exr", ".hdr", ".pfm", ".sgi", ".xbm", ".xpm", ".dng", ".cr2", ".cr3", ".crw", ".nef",
    ".nrw", ".arw", ".srf", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".jxl", ".jxr", ".wdp", ".heics", ".bpg",
    ".fli", ".flc", ".dcm", ".fits", ".fit", ".vrt", ".ecw", ".sid",
)  # fmt: skip
"""Suffixes that files of other formats have."""


def is_image(head: bytes) -> bool:
    """Whether a file begins as those of the formats do that are read."""
    return head.startswith(_MAGIC) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or bool(brand(head))


def other_format(name: str, head: bytes = b"") -> str:
    """Which format that is not read a file seems to be in, by its beginning or else its suffix; "" for none."""
    by_magic = next((kind for magic, kind in _OTHER_MAGIC.items() if head.startswith(magic)), "")
    suffix = next((suffix for suffix in _OTHER_SUFFIXES if name.lower().endswith(suffix)), "")
    return by_magic or suffix.lstrip(".").upper()


def brand(head: bytes) -> str:
    """AVIF or HEIF by the brand in a file's first box; "" for neither."""
    if head[4:8] != b"ftyp":
        return ""
    name = head[8:12]
    return "AVIF" if name in (b"avif", b"avis") else "HEIF" if name[:3] in (b"hei", b"hev", b"mif") else ""
