"""Where on Earth an image lies, and what was found in it as GeoJSON (RFC 7946).

The place comes from a GeoTIFF's tags or a world file beside the image, through GDAL.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdist import masks
from segdist.errors import SpecError
from segdist.records import Instance

WGS84 = "EPSG:4326"
_DIGITS = 8
"""Decimals of a degree: a millimetre."""


@dataclass(frozen=True)
class Place:
    """From pixels to the ground.

    Attributes:
        transform: rasterio's affine transform from (column, row), counted from the corner, to (x, y).
        system: of x and y, as WKT; "" where the image does not say.
    """

    transform: Any
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            if file and "://" not in file and Path(file).is_file():
                with rasterio.open(file) as opened:
                    return _place(opened)
            with rasterio.MemoryFile(image_bytes) as held, held.open() as opened:
                return _place(opened)
        except rasterio.errors.RasterioIOError:  # a format that GDAL does not know has no place that it could say
            return None


def features(instances: Sequence[Instance], place: Place | None, *, image: str) -> list[dict[str, Any]]:
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
        geometry: dict[str, Any] = {"type": "MultiPolygon", "coordinates": rings}
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


def _place(opened: Any) -> Place | None:
    if opened.transform.is_identity:
        return None
    return Place(opened.transform, opened.crs.to_wkt() if opened.crs else "")


def _rasterio() -> Any:
    try:
        import rasterio
        import rasterio.errors
    except ModuleNotFoundError as error:
        raise SpecError("GeoJSON needs the library `rasterio`. Install it: pip install 'segdist[geo]'") from error
    return rasterio
