"""Scenes drawn on the fly, with true masks and boxes: needs no files, and any number of images."""

from collections.abc import Iterator
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
from pydantic import Field, PositiveInt, field_validator

from segdist.core.masks import encode
from segdist.core.plugins import DatasetFormat
from segdist.core.records import Instance, ReportFinding, Sample
from segdist.core.spec import Strict, digest
from segdist.formats.synthetic.scenes import SCENES, VERSION, draw
from segdist.formats.synthetic.scenes.canvas import Drawing

Scene = Literal["cracks", "seams", "rooms", "roofs"]

__all__ = ["Format", "Options", "draw"]


class Options(Strict):
    """What is drawn."""

    scene: tuple[Scene, ...] | Scene | Literal["all"] = "all"
    """One kind of scene, a list of kinds that take turns, or all."""
    count: PositiveInt = 100
    """Images, over all kinds."""
    size: int = Field(default=128, ge=32, le=2048)
    """Side of the square images in pixels."""
    seed: int = Field(default=0, ge=0)
    """Same seed, same images; other seeds are other images of the same kind."""
    empty_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the crack and seam images that show none."""

    @field_validator("scene")
    @classmethod
    def _names_some_scene(cls, scene: tuple[Scene, ...] | str) -> tuple[Scene, ...] | str:
        if not scene:
            raise ValueError(f"`scene` must name at least one of {', '.join(SCENES)}")
        return scene

    @property
    def scenes(self) -> tuple[str, ...]:
        """The kinds of scene, in turn."""
        if self.scene == "all":
            return SCENES
        return (self.scene,) if isinstance(self.scene, str) else self.scene


class Format(DatasetFormat[Options]):
    """Samples of drawn scenes; `image_uri` says everything needed to draw one again."""

    def signature(self) -> str:
        """Changes with the options, and when the drawing code does."""
        return digest([VERSION, self.options.model_dump(mode="json")])

    def read(self, report: ReportFinding) -> Iterator[Sample]:  # noqa: ARG002 - drawings have no faults
        """Every image with its truth."""
        for index in range(self.options.count):
            yield self._sample(index)

    def image_bytes(self, sample: Sample) -> bytes:
        """The image as PNG."""
        image_HWC, _ = _draw_uri(sample.image_uri)
        ok, png = cv2.imencode(".png", cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR))
        assert ok
        return png.tobytes()

    def _sample(self, index: int) -> Sample:
        options = self.options
        scene = options.scenes[index % len(options.scenes)]
        objects = np.random.default_rng([options.seed, 1, index]).random() >= options.empty_share
        uri = f"synthetic://{scene}/{options.seed}/{index}?size={options.size}&objects={int(objects)}"
        _, truth = _draw_uri(uri)
        rles = [(label, encode(mask_HW)) for label, mask_HW in truth]
        return Sample(
            image_id=f"{scene}-{options.seed}-{index:06d}",
            image_uri=uri,
            size_hw=(options.size, options.size),
            instances=tuple(Instance(label, rle, rle.box_xyxy) for label, rle in rles),
        )


def _draw_uri(uri: str) -> Drawing:
    """The drawing that a `synthetic://scene/seed/index?size=..&objects=..` names."""
    parts = urlsplit(uri)
    query = parse_qs(parts.query)
    seed, index = (int(p) for p in parts.path.strip("/").split("/"))
    number = SCENES.index(parts.netloc)
    return draw(parts.netloc, (seed, number, index), int(query["size"][0]), objects=query["objects"] == ["1"])
