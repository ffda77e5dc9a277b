"""Every dataset format keeps the promises of `plugins.DatasetFormat`."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from segdist import registry
from segdist.masks import encode
from segdist.plugins import DatasetFormat
from segdist.records import Finding


def _coco(folder: Path) -> dict[str, Any]:
    rle = encode(np.eye(24, 32))
    images, annotations = [], []
    for number in range(3):
        Image.fromarray(np.full((24, 32, 3), 80 * number, np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 24, "width": 32})
        mask = {"size": [24, 32], "counts": rle.counts.decode()}
        if number:
            box = [0, 0, 24, 24]
            annotations.append({"id": number, "image_id": number, "category_id": 5, "bbox": box, "segmentation": mask})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "crack"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    return {"path": str(folder)}


EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "coco": _coco,
    "synthetic": lambda _: {"scene": "cracks", "count": 3, "size": 48},
}
"""For each format, a way to make a small source: three images, at least one with an instance."""


@pytest.fixture(params=registry.names("formats"))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DatasetFormat:
    name = request.param
    assert name in EXAMPLES, f"add a small example of the format `{name}` to EXAMPLES, so that its contract is tested"
    module = registry.load("formats", name)
    made: DatasetFormat = module.Format(module.Options.model_validate(EXAMPLES[name](tmp_path)))
    return made


def _fail(finding: Finding) -> None:
    pytest.fail(str(finding))


def test_images_have_unique_ids_and_the_size_that_they_decode_to(source: DatasetFormat) -> None:
    samples = list(source.read(_fail))
    assert len(samples) == 3
    assert len({s.image_id for s in samples}) == 3
    for sample in samples:
        width, height = Image.open(io.BytesIO(source.image_bytes(sample))).size
        assert sample.size_hw == (height, width)
        assert sample.split in ("", "train", "val", "test")


def test_masks_have_their_images_size_and_boxes_lie_inside(source: DatasetFormat) -> None:
    instances = [(s, i) for s in source.read(_fail) for i in s.instances]
    assert instances
    for sample, instance in instances:
        x1, y1, x2, y2 = instance.box_xyxy
        assert 0 <= x1 < x2 <= sample.size_hw[1]
        assert 0 <= y1 < y2 <= sample.size_hw[0]
        assert instance.label
        if instance.mask:
            assert instance.mask.size_hw == sample.size_hw
            assert instance.mask.area > 0


def test_reading_twice_gives_the_same_samples_and_signature(source: DatasetFormat) -> None:
    assert list(source.read(_fail)) == list(source.read(_fail))
    assert source.signature() == source.signature()


def test_a_reader_works_after_travelling_to_another_process(source: DatasetFormat) -> None:
    sample = next(iter(source.read(_fail)))
    assert pickle.loads(pickle.dumps(source)).image_bytes(sample) == source.image_bytes(sample)


def test_an_unknown_option_is_refused(source: DatasetFormat) -> None:
    with pytest.raises(ValidationError, match="no_such_option"):
        source.Options.model_validate({"no_such_option": 1})
