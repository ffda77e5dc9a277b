"""Where an image lies: from its own bytes or a world file, and from nowhere else."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.engine.georeference import place_of

rasterio = pytest.importorskip("rasterio")
TRANSFORM = (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_400_000.0)


def photo(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(out, kind)
    return out.getvalue()


def geotiff(**further: Any) -> bytes:
    with rasterio.MemoryFile() as held:
        profile = {"driver": "GTiff", "width": 8, "height": 6, "count": 1, "dtype": "uint8", "crs": "EPSG:32632"}
        with held.open(**{**profile, "transform": rasterio.Affine(*TRANSFORM), **further}) as out:
            out.write(np.zeros((1, 6, 8), np.uint8))
        return bytes(held.read())


def test_the_place_of_a_geotiff_is_in_its_bytes() -> None:
    place = place_of("", geotiff())
    assert place is not None
    assert tuple(place.transform)[:6] == TRANSFORM
    assert "32632" in place.system


@pytest.mark.parametrize(
    ("image", "kind", "world"),
    [("a.jpg", "JPEG", "a.jgw"), ("a.jpeg", "JPEG", "a.jgw"), ("a.png", "PNG", "a.pgw"), ("a.png", "PNG", "a.PGW"),
     ("a.tif", "TIFF", "a.tfw"), ("a.jpg", "JPEG", "a.jpgw"), ("a.png", "PNG", "a.wld")],
)  # fmt: skip
def test_a_world_file_gives_the_middle_of_the_first_pixel(tmp_path: Path, image: str, kind: str, world: str) -> None:
    (tmp_path / image).write_bytes(photo(kind))
    assert place_of(str(tmp_path / image), photo(kind)) is None
    (tmp_path / world).write_text("0.5\n0.0\n0.0\n-0.5\n500000.25\n5399999.75\n")
    place = place_of(str(tmp_path / image), photo(kind))
    assert place is not None
    assert tuple(place.transform)[:6] == TRANSFORM
    assert place.system == ""


@pytest.mark.parametrize("text", ["", "1 2 3", "nan 0 0 1 0 0", "0 0 0 0 0 0", "x " * 6, "1 " * 4_000])
def test_a_world_file_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jgw").write_text(text)
    assert place_of(str(tmp_path / "a.jpg"), photo("JPEG")) is None


def test_a_file_that_names_other_files_opens_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "secret.tif").write_bytes(geotiff())
    source = f"<SourceFilename>{tmp_path}/secret.tif</SourceFilename><SourceBand>1</SourceBand>"
    band = f'<VRTRasterBand dataType="Byte" band="1"><SimpleSource>{source}</SimpleSource></VRTRasterBand>'
    place = "<GeoTransform>500000, 0.5, 0, 5400000, 0, -0.5</GeoTransform>"
    vrt = f'<VRTDataset rasterXSize="8" rasterYSize="6">{place}{band}</VRTDataset>'.encode()
    for name in ("a.vrt", "a.tif", "a.png"):
        (tmp_path / name).write_bytes(vrt)
        assert place_of(str(tmp_path / name), vrt) is None
    with rasterio.open(tmp_path / "a.vrt") as opened:
        assert tuple(opened.transform)[:6] == TRANSFORM  # GDAL itself would follow it


def test_broken_bytes_have_no_place() -> None:
    for content in (b"", b"II*\0", geotiff()[:60], b"II*\0" + bytes(100)):
        assert place_of("", content) is None
