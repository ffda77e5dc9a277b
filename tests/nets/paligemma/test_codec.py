import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segdist.core.errors import WeightsError
from segdist.core.masks import encode
from segdist.nets.paligemma.codec import MaskCodec
from segdist.nets.paligemma.codec_files import PUBLISHED_BYTES, PUBLISHED_SHA256, open_codec, save_codec
from segdist.nets.paligemma.crops import crop, paste
from tests.nets.paligemma.reference import decoded, distances, npz, published_arrays

ARRAYS = published_arrays()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("codec") / "vae-oid.npz"
    file.write_bytes(npz(ARRAYS))
    return file


@pytest.fixture(scope="module")
def codec(published: Path) -> MaskCodec:
    return open_codec(str(published), published_sha256=None)


def covers(count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        square = np.zeros((64, 64), np.uint8)
        cv2.ellipse(square, (32, 32), tuple(int(v) for v in rng.integers(4, 40, 2)), 30.0, 0, 360, 255, -1, cv2.LINE_AA)
        cv2.line(square, tuple(rng.integers(0, 64, 2).tolist()), tuple(rng.integers(0, 64, 2).tolist()), 0, 3)
        found.append(square)
    return np.stack(found)


def test_the_arrays_are_those_of_the_published_file_to_the_byte() -> None:
    assert len(ARRAYS) == 49
    assert len(npz(ARRAYS)) == PUBLISHED_BYTES


def test_codes_are_those_of_a_float64_reference_wherever_it_is_sure(codec: MaskCodec) -> None:
    sure = 0
    for cover, codes in zip(covers(), codec.encode(covers()), strict=True):
        apart = distances(ARRAYS, cover.astype(np.float64) / 255)
        nearest = np.sort(apart, axis=1)
        margin = nearest[:, 1] - nearest[:, 0]
        for place in np.flatnonzero(margin > 1e-4):
            assert codes[place] == apart[place].argmin()
            sure += 1
    assert sure > 180  # of 192


def test_decoded_logits_are_those_of_a_float64_reference(codec: MaskCodec) -> None:
    rng = np.random.default_rng(5)
    for codes in rng.integers(0, 128, (4, 16)).tolist():
        wanted = decoded(ARRAYS, codes)
        assert np.abs(codec.decode([codes])[0] - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_opening_a_codec_draws_no_numbers_that_others_would_draw(published: Path) -> None:
    before = torch.get_rng_state()
    open_codec(f"file://{published}", published_sha256=None)  # by a name under which it was not opened yet
    assert torch.equal(torch.get_rng_state(), before)


def test_many_masks_are_what_each_is_alone(codec: MaskCodec) -> None:
    many = covers(70)
    assert codec.encode(many) == [codec.encode(one[None])[0] for one in many]
    assert codec.encode(many[:0]) == []
    assert codec.decode([]).shape == (0, 64, 64)


def test_another_file_of_that_name_is_refused_with_both_digests(published: Path) -> None:
    found = hashlib.sha256(published.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=f"{PUBLISHED_SHA256}.*{found}") as caught:
        open_codec(str(published))
    assert str(published) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.npz", npz(ARRAYS)[:5000], "holds no arrays"),
        ("less.npz", npz({k: v for k, v in ARRAYS.items() if k != "decoder.12.bias"}), "decoder.12.bias"),
        ("shape.npz", npz({**ARRAYS, "encoder.10.bias": np.zeros(3, np.float32)}), "encoder.10.bias"),
        ("cut.safetensors", b"\x01\x02", "must be a safetensors file"),
    ],
)
def test_damaged_or_foreign_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}.*{message}"):
        open_codec(str(tmp_path / name), published_sha256=None)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="segdist weights get vae-oid"):
        open_codec(str(tmp_path / "vae-oid.npz"))


def test_a_saved_codec_is_small_and_opens_again(codec: MaskCodec, tmp_path: Path) -> None:
    save_codec(codec, tmp_path / "own.safetensors")
    assert (tmp_path / "own.safetensors").stat().st_size < 4_300_000
    again = open_codec(str(tmp_path / "own.safetensors"))
    for name, tensor in codec.state_dict().items():
        assert (again.state_dict()[name] - tensor).abs().max() <= 1e-3 * tensor.abs().max()


def blob(size_hw: tuple[int, int] = (300, 500)) -> np.ndarray:
    mask = np.zeros(size_hw, np.uint8)
    cv2.fillPoly(mask, [np.array([[40, 30], [420, 90], [300, 260], [60, 200]])], 1)
    cv2.circle(mask, (200, 140), 30, 0, -1)
    return mask > 0


def test_a_crop_is_the_antialiased_bilinear_resize_of_its_tight_box() -> None:
    mask = blob()
    inside = mask[30:261, 40:421]
    wanted = np.asarray(Image.fromarray(inside.astype(np.float32)).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.abs(crop(encode(mask)) / 255 - wanted).max() <= 1 / 255


@pytest.mark.parametrize("box", [(10, 20, 200, 90), (0, 0, 500, 300), (30, 40, 31, 41), (5, 5, 25, 9)])
def test_a_paste_is_what_big_visions_evaluator_makes_of_the_logits(box: tuple[int, int, int, int]) -> None:
    logits = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(64, 64)), (9, 9), 0).astype(np.float32)
    x1, y1, x2, y2 = box
    inside = np.asarray(Image.fromarray(logits).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR))
    pasted = paste(logits, box, size_hw=(300, 500))
    unsure = np.abs(inside) < 1e-6
    assert ((pasted[y1:y2, x1:x2] == (inside > 0)) | unsure).all()
    pasted[y1:y2, x1:x2] = False
    assert not pasted.any()


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 9, 9, 9), (9, 5, 5, 9)])
def test_nothing_is_pasted_into_a_box_of_no_size(box: tuple[int, int, int, int]) -> None:
    assert not paste(np.ones((64, 64), np.float32), box, size_hw=(20, 20)).any()


def test_an_empty_mask_has_no_crop() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        crop(encode(np.zeros((4, 4))))
