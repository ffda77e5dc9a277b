"""Images from outside: limits before decoding, one orientation, pixels that keep their meaning."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.core.errors import DataError
from segdist.reading import images
from segdist.reading.images import TooLargeError, decode, header_of

Pixels = np.ndarray[Any, Any]


def saved(image: Image.Image | Pixels, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with a header that claims this size, and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), *chunks, (b"IDAT", b""), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def tiff(*tags: tuple[int, int, int], width: int = 16, height: int = 16, compression: int = 1) -> bytes:
    """A little grey TIFF with further or other tags: number, type and value."""
    own = {256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, compression), 262: (3, 1), 277: (3, 1)}
    own |= {number: (kind, value) for number, kind, value in tags}
    content = b"II*\0" + struct.pack("<IH", 8, len(own))
    for number, (kind, value) in sorted(own.items()):
        content += struct.pack("<HHII", number, kind, 1, value)
    return content + struct.pack("<I", 0) + bytes(300)


def icon(picture: bytes, kind: int = 1) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, kind, 1, 0, 0, 0, 0, 1, 32, len(picture), 22) + picture


def lying_jpeg_2000(offset: int, value: int) -> bytes:
    """A JPEG 2000 of which one number of the SIZ segment is another."""
    content = bytearray(saved(Image.new("RGB", (64, 64)), "JPEG2000"))
    struct.pack_into(">I", content, content.find(b"\xff\x4f\xff\x51") + offset, value)
    return bytes(content)


def scans(count: int) -> bytes:
    """A JPEG of nine million pixels that repeats its last scan."""
    content = saved(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    return content[:-2] + content[content.rfind(b"\xff\xda") : -2] * count + content[-2:]


ZEROS = zlib.compress(bytes(1 << 26))
BOMBS = {
    "a png of four billion columns": png(2**31 - 1, 2**31 - 1),
    "a png above the limit": png(13_378, 13_378, depth=1, colour=0),
    "a png without a row": png(5, 0),
    "a png with a colour profile of 64 MB": png(8, 8, (b"iCCP", b"a\0\0" + ZEROS)),
    "a png with a text of 64 MB": png(8, 8, (b"zTXt", b"a\0\0" + ZEROS)),
    "an icon with a picture inside": icon(png(20_000, 8_000)),
    "a cursor with a picture inside": icon(png(20_000, 8_000), 2),
    "an icns with a picture inside": b"icns" + struct.pack(">I4sI", 73, b"ic10", 65) + png(8_000, 8_000),
    "a gif whose frame lies outside": b"GIF89a" + struct.pack("<HHBBB", 4, 4, 128, 0, 0) + bytes(6)
    + b"\x2c" + struct.pack("<HHHHB", 60_000, 60_000, 60_000, 60_000, 0) + b"\x02\x02\x4c\x01\x00;",
    "a tiff of large tiles": tiff((322, 4, 46_000), (323, 4, 46_000), (324, 4, 200), (325, 4, 100), compression=8),
    "a tiff of endless strips": tiff((278, 4, 2**32 - 1), (273, 4, 200), (279, 4, 2**31), compression=8),
    "a tiff of 65,535 channels": tiff((277, 3, 65_535), (278, 4, 16), (273, 4, 200), (279, 4, 100)),
    "a tiff above the limit": tiff((273, 4, 200), (279, 4, 100), width=2**20, height=2**20),
    "a jpeg of 400 scans": scans(400),
    "a jpeg 2000 above the limit": lying_jpeg_2000(8, 2**31 - 1),
    "a ppm without pixels": b"P6 13000 13000 255\n",
    "a ppm of long numbers": b"P5 99999999999 99999999999 255\n",
    "a bmp without pixels": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 9_000, 9_000, 1, 24) + bytes(24),
    "a postscript file": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9000 9000\n%%EndComments\n",
    "a photoshop file": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8_000, 8_000, 8, 3) + bytes(20),
    "a pdf": b"%PDF-1.4\n", "an svg": b"<svg xmlns='x'/>", "a dds": b"DDS " + struct.pack("<I", 124) + bytes(200),
    "an animation of autodesk": struct.pack("<IHHHHH", 200, 0xAF11, 9, 9_000, 9_000, 8) + bytes(200),
    "nothing": b"", "a word": b"no image", "half a photo": saved(np.eye(99, dtype=np.uint8), "JPEG")[:-99],
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_bytes_are_refused_by_name_before_memory_is_taken(name: str) -> None:
    with pytest.raises(DataError, match=r"wall_17\.jpg"):
        decode(BOMBS[name], name="wall_17.jpg")


def test_a_format_that_is_not_read_is_named() -> None:
    for name, kind in (("an icon with a picture inside", "ICO"), ("a postscript file", "EPS"), ("a pdf", "PDF")):
        with pytest.raises(DataError, match=f"{kind} is not read"):
            header_of(BOMBS[name])


def test_what_costs_too_much_is_told_apart_from_what_is_broken() -> None:
    for name in ("a png of four billion columns", "a tiff of large tiles", "a jpeg of 400 scans"):
        with pytest.raises(TooLargeError):
            header_of(BOMBS[name])


def test_a_thousand_pages_are_counted_quickly_and_a_ring_of_them_ends() -> None:
    assert header_of(tiff((273, 4, 8), (279, 4, 256))).pages == 1
    ring = tiff((273, 4, 8), (279, 4, 256))
    end = 10 + 8 * 12
    assert header_of(ring[:end] + struct.pack("<I", 8) + ring[end + 4 :]).pages == 1


# orientation


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """What a viewer shows, by EXIF 2.32, table 6: where row 0 and column 0 of the stored pixels lie."""
    rows_first = pixels if orientation < 5 else pixels.swapaxes(0, 1)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return rows_first[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def turned(kind: str, orientation: int, pixels: Pixels) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        return saved(pixels, kind, tiffinfo={274: orientation})
    if kind == "TIFF with XMP":
        said = f'<x xmlns:tiff="t" tiff:Orientation="{orientation}"/>'.encode()
        return saved(pixels, "TIFF", tiffinfo={274: orientation, 700: said}, compression="tiff_adobe_deflate")
    if kind == "PNG, behind the pixels":
        chunk = b"eXIf" + exif.tobytes()[6:]
        late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        content = saved(pixels)
        return content[:-12] + late + content[-12:]
    best: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 100}
    return saved(pixels, kind, exif=exif, **best)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "TIFF with XMP", "PNG", "PNG, behind the pixels", "WEBP", "JPEG", "AVIF"])
def test_orientation_is_applied_once_to_the_size_and_to_the_pixels(kind: str, orientation: int) -> None:
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[:24, :40], pixels[:24, 40:], pixels[24:, :40] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    content = turned(kind, orientation, pixels)
    wanted = upright(pixels, orientation)
    header, found = header_of(content), decode(content).image_HWC
    assert (header.orientation, header.size_hw) == (orientation, wanted.shape[:2])
    assert found.shape == wanted.shape
    if kind in ("JPEG", "AVIF"):
        assert np.abs(found.astype(int) - wanted).mean() < 12  # another orientation differs by 80
    else:
        np.testing.assert_array_equal(found, wanted)


def test_an_orientation_that_is_none_is_left_alone() -> None:
    for number in (0, 9, 60_000):
        assert header_of(turned("JPEG", number, np.zeros((8, 9, 3), np.uint8))).orientation == 1


# pixels


def ramp(low: float, high: float, dtype: Any) -> Pixels:
    values = np.linspace(low, high, 32 * 32)
    return (values if np.dtype(dtype).kind == "f" else np.floor(values)).astype(dtype).reshape(32, 32)


@pytest.mark.parametrize(
    ("values", "kind", "wanted", "is_reported"),
    [
        (ramp(0, 1, np.float32), "TIFF", lambda v: np.rint(v.astype(float) * 255), False),
        (ramp(0, 255, np.float32), "TIFF", lambda v: np.rint(v.astype(float)), False),
        (ramp(300, 800, np.float32), "TIFF", lambda v: np.rint((v.astype(float) - 300) / 500 * 255), True),
        (ramp(-20, 40, np.float32), "TIFF", lambda v: np.rint((v.astype(float) + 20) / 60 * 255), True),
        (ramp(0, 65_535, np.uint16), "PNG", lambda v: v // 256, False),
        (ramp(0, 65_535, np.uint16), "TIFF", lambda v: v // 256, False),
        (ramp(0, 4_095, np.uint16), "PNG", lambda v: v // 16, True),
        (ramp(0, 1_023, np.uint16), "TIFF", lambda v: v // 4, True),
        (ramp(0, 255, np.uint16), "TIFF", lambda v: v, False),
        (ramp(7_000, 9_000, np.uint16), "TIFF", lambda v: (v.astype(int) - 7_000) * 256 // 2_001, True),
        (ramp(0, 65_535, np.int32), "TIFF", lambda v: v // 256, False),
        (ramp(-500, 499, np.int32), "TIFF", lambda v: (v + 500) * 256 // 1_000, True),
        (np.zeros((9, 9), np.uint16), "PNG", lambda v: v, False),
        (np.full((9, 9), 0.5, np.float32), "TIFF", lambda v: np.rint(v * 255), False),
    ],
)
def test_more_than_eight_bits_become_eight_by_the_range_of_type_or_file(
    values: Pixels, kind: str, wanted: Any, is_reported: bool
) -> None:
    found = decode(saved(values, kind))
    np.testing.assert_array_equal(found.image_HWC, np.repeat(wanted(values).astype(np.uint8)[..., None], 3, axis=2))
    assert [code for code, _ in found.notes] == ["pixels-scaled"] * is_reported


def test_values_that_are_no_data_are_black_and_do_not_count() -> None:
    values = ramp(300, 800, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    values[1, :4] = -9_999
    found = decode(saved(values, "TIFF", tiffinfo={42113: "-9999"})).image_HWC[..., 0]
    counted = np.isfinite(values) & (values > 0)
    least = float(values[counted].min())
    wanted = np.where(counted, np.rint((values.astype(float) - least) / (800 - least) * 255), 0)
    np.testing.assert_array_equal(found, wanted)
    assert not decode(saved(np.full((4, 4), np.nan, np.float32), "TIFF")).image_HWC.any()


@pytest.mark.parametrize(("sample_format", "bits"), [(2, 8), (1, 32)])
def test_signs_of_a_tiff_are_as_it_says(sample_format: int, bits: int) -> None:
    kinds: dict[int, Pixels] = {
        8: np.array([[-100, 0], [27, 100]], np.int8),
        32: np.array([[0, 2**31], [1, 2**32 - 1]], np.uint32),
    }
    stored = kinds[bits]
    content = tiff(
        (339, 3, sample_format), (258, 3, bits), (273, 4, 8 + 2 + 10 * 12 + 4), (278, 4, 2), (279, 4, stored.nbytes),
        width=2, height=2,
    )  # fmt: skip
    content = content[: 8 + 2 + 10 * 12 + 4] + stored.tobytes() + bytes(300)
    low, high = int(stored.min()), int(stored.max())
    wanted = (stored.astype(np.int64) - low) * 256 // (high - low + 1)
    np.testing.assert_array_equal(decode(content).image_HWC[..., 0], wanted)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_where_a_tiff_says_that_zero_is_white_it_is(dtype: Any) -> None:
    values = ramp(0, {"u1": 255, "u2": 65_535, "f4": 1}[np.dtype(dtype).str[1:]], dtype)
    content = bytearray(saved(values, "TIFF"))
    at = content.index(struct.pack("<HHI", 262, 3, 1)) + 8
    content[at : at + 2] = b"\0\0"
    plain = decode(saved(values, "TIFF")).image_HWC
    np.testing.assert_array_equal(decode(bytes(content)).image_HWC, 255 - plain)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_twelve_bits_in_sixteen_keep_all_levels(kind: str, channels: int) -> None:
    import cv2

    values = np.stack([ramp(0, 4_095, np.uint16), *[ramp(0, top, np.uint16) for top in (2_000, 300)]], axis=-1)
    opaque = np.dstack([values, np.full((32, 32), 65_535, np.uint16)])[..., :channels]
    bgr = opaque[..., [2, 1, 0, 3][:channels]]
    done, content = cv2.imencode(".png" if kind == "PNG" else ".tif", bgr)
    assert done
    found = decode(content.tobytes())
    np.testing.assert_array_equal(found.image_HWC, values // 16)
    assert [code for code, _ in found.notes] == ["pixels-scaled"]
    full = (values.astype(np.uint32) * 16).astype(np.uint16)
    done, content = cv2.imencode(".png", full[..., ::-1])
    np.testing.assert_array_equal(decode(content.tobytes()).image_HWC, full // 256)


MODES = {
    "1": Image.fromarray(ramp(0, 255, np.uint8)).convert("1", dither=Image.Dither.NONE),
    "L": Image.fromarray(ramp(0, 255, np.uint8)),
    "P": Image.fromarray(ramp(0, 255, np.uint8)).convert("P"),
    "RGB": Image.fromarray(np.dstack([ramp(0, 255, np.uint8)] * 3)),
    "CMYK": Image.fromarray(np.dstack([ramp(0, 255, np.uint8)] * 3)).convert("CMYK"),
    "YCbCr": Image.fromarray(np.dstack([ramp(0, 255, np.uint8)] * 3)).convert("YCbCr"),
    "LA": Image.fromarray(ramp(0, 255, np.uint8)).convert("LA"),
    "RGBA": Image.fromarray(np.dstack([ramp(0, 255, np.uint8)] * 3)).convert("RGBA"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_grey_ramp_is_one_in_every_mode(mode: str) -> None:
    values = ramp(0, 255, np.uint8)
    wanted = np.where(values > 127, 255, 0) if mode == "1" else values.astype(int)
    found = decode(saved(MODES[mode], "TIFF"))
    assert np.abs(found.image_HWC - wanted[..., None]).max() <= (1 if mode == "YCbCr" else 0)
    assert found.notes == ()


def test_lab_becomes_the_colours_it_stands_for() -> None:
    from PIL import ImageCms

    colours = Image.fromarray(np.dstack([np.full((8, 8), value, np.uint8) for value in (200, 40, 90)]))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(colours, to_lab)
    assert lab is not None
    found = decode(saved(lab, "TIFF")).image_HWC
    assert np.abs(found.astype(int) - (200, 40, 90)).max() <= 3


def test_transparent_pixels_show_the_colours_beneath_and_that_is_reported() -> None:
    pixels = np.dstack([np.dstack([ramp(0, 255, np.uint8)] * 3), np.where(np.eye(32) > 0, 0, 255).astype(np.uint8)])
    for content in (saved(pixels), saved(pixels, "WEBP", lossless=True, exact=True), saved(pixels, "TIFF")):
        found = decode(content)
        np.testing.assert_array_equal(found.image_HWC, pixels[..., :3])
        assert [code for code, _ in found.notes] == ["image-transparent"]


def test_a_picture_that_only_the_alpha_channel_holds_is_that_channel() -> None:
    shape = ramp(0, 255, np.uint8)
    for mode, colour in (("RGBA", (0, 0, 0)), ("RGBA", (255, 255, 255)), ("LA", (7,))):
        layers = [np.full((32, 32), value, np.uint8) for value in colour]
        found = decode(saved(Image.merge(mode, [Image.fromarray(one) for one in (*layers, shape)])))
        np.testing.assert_array_equal(found.image_HWC, np.dstack([shape] * 3))
        assert "alpha" in found.notes[0][1]


def test_large_images_are_converted_in_strips_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {mode: decode(saved(image, "TIFF")).image_HWC for mode, image in MODES.items()}
    whole |= {"I;16": decode(saved(ramp(0, 4_095, np.uint16), "TIFF")).image_HWC}
    monkeypatch.setattr(images, "_PIXELS_AT_ONCE", 96)
    for mode, image in {**MODES, "I;16": Image.fromarray(ramp(0, 4_095, np.uint16))}.items():
        np.testing.assert_array_equal(decode(saved(image, "TIFF")).image_HWC, whole[mode], mode)
    assert len(whole) == len(MODES) + 1


# pages


def test_pages_and_frames_are_counted_but_overviews_masks_and_previews_are_not() -> None:
    pages = [Image.fromarray(ramp(0, 255, np.uint8)) for _ in range(3)]
    for kind in ("TIFF", "GIF", "WEBP"):
        frames = [page.point(lambda v, n=n: (v + 60 * n) % 256) for n, page in enumerate(pages)]
        assert header_of(saved(frames[0], kind, save_all=True, append_images=frames[1:])).pages == 3
    overviews = io.BytesIO()
    pages[0].save(overviews, "TIFF", save_all=True, append_images=pages[1:], tiffinfo={254: 1})
    assert header_of(overviews.getvalue()).pages == 1
    assert header_of(saved(pages[0], "MPO", save_all=True, append_images=pages[1:])).pages == 1


def test_a_cloud_optimised_geotiff_is_one_page() -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.enums import Resampling

    with rasterio.MemoryFile() as held:
        profile = {"driver": "GTiff", "width": 512, "height": 512, "count": 1, "dtype": "uint8", "tiled": True}
        with held.open(**profile, transform=rasterio.Affine(2, 0, 7, 0, -2, 9), crs="EPSG:3857") as out:
            out.write(np.tile(ramp(0, 255, np.uint8), (16, 16)), 1)
            out.write_mask(np.eye(512) == 0)
            out.build_overviews([2, 4], Resampling.nearest)
        content = bytes(held.read())
    assert header_of(content).pages == 1
    np.testing.assert_array_equal(decode(content).image_HWC[..., 0], np.tile(ramp(0, 255, np.uint8), (16, 16)))


def test_content_counts_not_the_name_and_photo_formats_are_read() -> None:
    pixels = np.dstack([ramp(0, 255, np.uint8)] * 3)
    read = []
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "GIF", "AVIF"):
        content = saved(pixels, kind)
        assert header_of(content) == images.Header(kind, (32, 32), 1, 1)
        assert np.abs(decode(content, name="a.png").image_HWC.astype(int) - pixels).mean() < 6
        read.append(kind)
    assert len(read) == 9
