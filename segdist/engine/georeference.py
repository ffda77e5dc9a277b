"""Where on Earth an image lies, and what was found in it as GeoJSON (RFC 7946).

The place comes from a GeoTIFF's tags, through GDAL, or from a world file beside the image.
"""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from segdist.core import extras, masks, storage
from segdist.core.errors import SpecError
from segdist.core.json_values import JsonDict
from segdist.core.records import Instance

if TYPE_CHECKING:
    from rasterio import Affine

WGS84 = "EPSG:4326"
_LONGEST_WORLD_FILE = 1_000
_DIGITS = 8
"""Decimals of a degree: a millimetre."""


@dataclass(frozen=True)
class Place:
    """From pixels to the ground.

    Attributes:
        transform: rasterio's affine transform from (column, row), counted from the corner, to (x, y).
        system: of x and y, as WKT; "" where the image does not say.
    """

    transform: "Affine"
    system: str


def check_installed() -> None:
    """Raises SpecError where rasterio is not there."""
    _rasterio()


def place_of(file: str, image_bytes: bytes) -> Place | None:
    """Where an image lies; None where nothing says.

    Args:
        file: a local file, whose world file may lie beside it; "" for none.
        image_bytes: the encoded image.

    Raises:
        SpecError: rasterio is not installed.
    """
    rasterio = _rasterio()
    if image_bytes[:2] in (b"II", b"MM"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            try:  # only the bytes, and only as a GeoTIFF: files of other formats of GDAL name files and URLs to open
                with rasterio.MemoryFile(image_bytes) as held, held.open(driver="GTiff") as opened:
                    if not opened.transform.is_identity:
                        return Place(opened.transform, opened.crs.to_wkt() if opened.crs else "")
            except rasterio.errors.RasterioError:  # what GDAL cannot read has no place that it could say
                pass
    return _beside(Path(file)) if file and storage.is_local(file) else None


def _beside(image: Path) -> Place | None:
    """The place in a world file: six numbers, for `a.jpg` in a.jgw, a.jpgw or a.wld."""
    suffix = image.suffix
    for name in (suffix[:2] + suffix[-1:] + "w", suffix + "w", ".wld"):
        for file in (image.with_suffix(name), image.with_suffix(name.upper())):
            if file.is_file() and file.stat().st_size < _LONGEST_WORLD_FILE:
                try:
                    a, d, b, e, c, f = map(float, file.read_text("ascii").split())
                except ValueError:
                    continue
                if all(map(math.isfinite, (a, b, c, d, e, f))) and a * e != b * d:
                    # It gives the middle of the first pixel, the transform its corner.
                    return Place(_rasterio().Affine(a, b, c - (a + b) / 2, d, e, f - (d + e) / 2), "")
    return None


def features(instances: Sequence[Instance], place: Place | None, *, image: str) -> list[JsonDict]:
    """GeoJSON features along pixel edges, holes included: in longitude and latitude where the place is known.

    Where an image has a transform but no coordinate system, in its own units; without either, in pixels. The property
    `coordinates` says which.
    """
    rasterio = _rasterio()
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    found = []
    for number, instance in enumerate(instances, 1):
        if instance.mask is None or not instance.mask.area:
            continue
        rows, columns = masks.tight_cut(instance.mask)
        mask_HW = masks.decode_cut(instance.mask, (rows, columns))
        moved = rasterio.Affine.translation(columns.start, rows.start)
        transform = (place.transform if place else rasterio.Affine.identity()) @ moved
        found_in = shapes(mask_HW.astype("uint8"), mask=mask_HW, connectivity=4, transform=transform)
        rings = [shape["coordinates"] for shape, _ in found_in]
        geometry: dict[str, object] = {"type": "MultiPolygon", "coordinates": rings}
        if place and place.system:
            geometry = transform_geom(place.system, WGS84, geometry, precision=_DIGITS)
        known = "WGS84" if place and place.system else "image's own units" if place else "pixels"
        properties = {
            "label": instance.label,
            "score": round(instance.score, 5),
            "image": image,
            "area_pixels": instance.mask.area,
            "coordinates": known,
        }
        found.append({"type": "Feature", "id": f"{image}/{number}", "geometry": geometry, "properties": properties})
    return json.loads(json.dumps(found))  # tuples to lists, as they are read back


def _rasterio() -> ModuleType:
    try:
        import rasterio
        import rasterio.errors
    except ModuleNotFoundError as error:
        raise SpecError(extras.needs("GeoJSON", "rasterio")) from error
    return rasterio
