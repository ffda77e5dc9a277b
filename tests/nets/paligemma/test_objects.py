from pathlib import Path

import numpy as np
import pytest

from segdist.core.masks import encode
from segdist.core.records import Instance
from segdist.nets.paligemma.answers import TokenObject
from segdist.nets.paligemma.codec import MaskCodec
from segdist.nets.paligemma.codec_files import open_codec
from segdist.nets.paligemma.objects import to_instances, to_objects
from tests.nets.paligemma.reference import npz, published_arrays


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> MaskCodec:
    file: Path = tmp_path_factory.mktemp("codec") / "random.npz"
    file.write_bytes(npz(published_arrays()))
    return open_codec(str(file), published_sha256=None)


def box_mask(x1: int, y1: int, x2: int, y2: int, size_hw: tuple[int, int] = (60, 100)) -> Instance:
    mask = np.zeros(size_hw, np.bool_)
    mask[y1:y2, x1:x2] = True
    rle = encode(mask)
    return Instance("crack", rle, rle.box_xyxy)


def test_a_mask_is_written_with_its_own_box_whatever_box_was_annotated(codec: MaskCodec) -> None:
    instance = box_mask(10, 20, 60, 40)
    wide = Instance("crack", instance.mask, (0.0, 0.0, 100.0, 60.0))
    assert to_objects([instance], size_hw=(60, 100), codec=codec) == to_objects([wide], size_hw=(60, 100), codec=codec)
    (found,) = to_objects([wide], size_hw=(60, 100), codec=codec)
    assert found.bins == (341, 102, 682, 614)
    assert found.codes is not None


def test_masks_and_boxes_keep_their_order_and_labels(codec: MaskCodec) -> None:
    instances = [box_mask(1, 1, 9, 9), Instance("seam", None, (5.0, 5.0, 50.0, 20.0)), box_mask(30, 30, 70, 59)]
    found = to_objects(instances, size_hw=(60, 100), codec=codec)
    assert [(o.label, o.codes is None) for o in found] == [("crack", False), ("seam", True), ("crack", False)]
    assert all(o.codes is None for o in to_objects(instances, size_hw=(60, 100), codec=None))
    back = to_instances(found, size_hw=(60, 100), codec=codec, scores=[0.1, 0.2, 0.3])
    assert [i.score for i in back if i] == [0.1, 0.2, 0.3][: len([i for i in back if i])]
    assert back[1] is not None
    assert back[1].box_xyxy == (5, 5, 50, 20)


def test_a_pixel_in_a_large_image_is_widened_to_a_bin(codec: MaskCodec) -> None:
    (found,) = to_objects([box_mask(1500, 700, 1501, 701, (2000, 3000))], size_hw=(2000, 3000), codec=codec)
    assert found.bins[2] - found.bins[0] == found.bins[3] - found.bins[1] == 1


def test_what_has_no_pixel_in_a_small_image_is_no_instance(codec: MaskCodec) -> None:
    tiny = TokenObject("crack", (3, 3, 5, 5))
    assert to_instances([tiny], size_hw=(32, 32), codec=codec) == [None]
    (large,) = to_instances([tiny], size_hw=(1023, 1023), codec=codec)
    assert large is not None
