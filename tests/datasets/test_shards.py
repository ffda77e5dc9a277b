"""Shards: what is written comes back exactly, locally and from an S3 server."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.masks import decode, encode
from segdist.core.records import Evidence, Finding, Instance, Rle, Sample, Severity, Verdict
from segdist.datasets.rows import SCHEMA, sample_digest, samples_of, to_row
from segdist.datasets.shards import Dataset, content_hash, read_summary, write_manifest, write_shard

masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=24)) | st.builds(
    np.full, st.tuples(st.integers(1, 40), st.integers(1, 40)), st.booleans()
)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket") + "/" + tmp_path.name


def _sample(name: str, *, split: str = "train", masked: bool = True) -> Sample:
    mask = np.zeros((20, 30), np.bool_)
    mask[3:9, 4 : 5 + len(name)] = True
    rle = encode(mask)
    crack = Instance("crack", rle if masked else None, rle.box_xyxy, score=0.25)
    return Sample(name, f"somewhere/{name}.png", (20, 30), (crack,), split=split, group="wall", source="human")


def _make(root: str, samples: list[Sample], *, per_shard: int = 2) -> Dataset:
    parts = [
        write_shard(
            storage.join(root, f"shard-{i:05d}.parquet"),
            [(s, s.image_id.encode()) for s in samples[i : i + per_shard]],
            findings=[Finding("image-truncated", Severity.SKIPPED, "cut", image=f"bad{i}")],
        )
        for i in range(0, len(samples), per_shard)
    ]
    return write_manifest(root, "dataset", ("crack",), parts)


@settings(max_examples=60, deadline=None)
@given(mask_HW=masks, score=st.floats(0, 1), is_crowd=st.booleans(), label=st.text(max_size=8))
def test_any_mask_comes_back_from_a_row_to_the_pixel(
    mask_HW: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], score: float, is_crowd: bool, label: str
) -> None:
    rle = encode(mask_HW)
    size_hw = (mask_HW.shape[0], mask_HW.shape[1])
    sample = Sample("a", "b", size_hw, (Instance(label, rle, rle.box_xyxy, score, is_crowd),), "val", "g", "run1")
    [back] = samples_of(pa.RecordBatch.from_pylist([to_row(sample, b"x")], schema=SCHEMA))
    assert back == sample
    assert back.instances[0].mask is not None
    assert np.array_equal(decode(back.instances[0].mask), mask_HW)


_rles = masks.map(lambda mask_HW: encode(mask_HW).counts)


@st.composite
def _samples(draw: st.DrawFn) -> Sample:
    """Any sample: objects with and without a mask, human or with any part of a pseudo-label's evidence."""
    size_hw = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    share = st.none() | st.floats(0, 1)
    rle = st.none() | st.builds(Rle, st.just(size_hw), _rles)
    evidence = st.none() | st.builds(Evidence, st.sampled_from(Verdict), rle, rle, share, share, share)
    box = st.tuples(st.just(0.5), st.just(0.25), st.floats(1, 5), st.floats(1, 5))
    instance = st.builds(Instance, st.text(max_size=3), rle, box, st.floats(0, 1), st.booleans(), evidence)
    text = st.text(max_size=3)
    instances = st.lists(instance, max_size=3).map(tuple)
    return draw(st.builds(Sample, text, text, st.just(size_hw), instances, text, text, text, text))


@settings(max_examples=60, deadline=None)
@given(samples=st.lists(_samples(), max_size=5), start=st.integers(0, 4), count=st.integers(0, 5))
def test_any_slice_of_rows_gives_its_samples_back(samples: list[Sample], start: int, count: int) -> None:
    batch = pa.RecordBatch.from_pylist([to_row(sample, b"x") for sample in samples], schema=SCHEMA)
    assert samples_of(batch.slice(start, count)) == samples[start : start + count]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=st.binary(max_size=200), mask_HW=masks)
def test_any_mask_and_image_come_back_from_a_file(
    image: bytes, mask_HW: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], tmp_path: Path
) -> None:
    rle = encode(mask_HW)
    sample = Sample("a", "b", (mask_HW.shape[0], mask_HW.shape[1]), (Instance("c", rle, rle.box_xyxy),), "train")
    part = write_shard(str(tmp_path / "one.parquet"), [(sample, image)])
    dataset = write_manifest(str(tmp_path), "dataset", ("c",), [part])
    assert list(dataset.rows("train")) == [(sample, image)]


def test_a_data_set_comes_back_with_its_splits_counts_and_findings(root: str) -> None:
    samples = [
        _sample("a"),
        _sample("bb", split="val"),
        _sample("ccc", masked=False),
        Sample("d", "", (4, 4), (), "test"),
    ]
    _make(root, samples)
    dataset = Dataset.open(root)
    assert list(dataset.samples()) == samples
    assert list(dataset.rows("train")) == [(samples[0], b"a"), (samples[2], b"ccc")]
    assert {k: v.images for k, v in dataset.manifest.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert dataset.manifest.splits["train"].masks == 1
    assert dataset.manifest.splits["test"].empty_images == 1
    assert dataset.manifest.findings == {"skipped": {"image-truncated": 2}}
    assert [f.image for f in dataset.findings()] == ["bad0", "bad2"]


def test_random_access_gives_samples_and_images_in_the_order_of_their_ids(root: str, tmp_path: Path) -> None:
    samples = [_sample(f"i{n:03d}") for n in (7, 3, 40, 12, 9)]
    rows = _make(root, samples).reader("train", tmp_path / "cache")
    expected = sorted(samples, key=lambda s: s.image_id)
    assert len(rows) == 5
    assert [rows[i] for i in range(5)] == [(s, s.image_id.encode()) for s in expected]
    assert rows[-1][0] == expected[-1]
    assert rows[1:3] == [rows[1], rows[2]]
    assert rows.only([3, 0])[:] == [rows[3], rows[0]]
    with pytest.raises(IndexError, match="5 samples"):
        rows[5]


def test_random_access_survives_pickling_and_many_batches(tmp_path: Path) -> None:
    samples = [_sample(f"i{n:03d}") for n in range(100)]
    rows = _make(str(tmp_path / "d"), samples, per_shard=33).reader("train", tmp_path / "cache")
    copy = pickle.loads(pickle.dumps(rows))
    assert [copy[i][0].image_id for i in (0, 17, 99)] == ["i000", "i017", "i099"]
    assert copy.sample(50) == samples[50]


def test_many_readers_that_start_together_share_one_file(tmp_path: Path) -> None:
    dataset = _make(str(tmp_path / "d"), [_sample(f"i{n}") for n in range(20)])
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda _: len(dataset.reader("train", tmp_path / "cache")), range(8)))
    assert lengths == [20] * 8
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_labels_overlay_the_images_they_know_and_hidden_masks_never_show(tmp_path: Path) -> None:
    dataset = _make(str(tmp_path / "d"), [_sample("a"), _sample("b")])
    made = Sample(
        "a", "", (20, 30), (Instance("crack", encode(np.eye(20, 30)), (0, 0, 20, 20), 0.9),), "train", source="t"
    )
    part = write_shard(str(tmp_path / "l" / "s.parquet"), [(made, None)])
    labels = write_manifest(str(tmp_path / "l"), "labels", ("crack",), [part])
    (first, image), (second, _) = dataset.reader("train", tmp_path / "c", labels=labels, hide_masks=True)
    assert (first, image) == (made, b"a")
    assert [i.mask for i in second.instances] == [None]
    assert second.instances[0].box_xyxy == _sample("b").instances[0].box_xyxy
    assert dataset.reader("train", tmp_path / "c")[1][0].instances[0].mask is not None


def test_the_content_hash_ignores_order_and_place_but_nothing_that_is_learned(tmp_path: Path) -> None:
    def hash_of(name: str, samples: list[Sample], per_shard: int = 2) -> str:
        return _make(str(tmp_path / name), samples, per_shard=per_shard).manifest.content_hash

    one, two = _sample("a"), _sample("b")
    moved = Sample(**{**vars(one), "image_uri": "elsewhere/a.png"})
    assert hash_of("1", [one, two]) == hash_of("2", [two, moved], per_shard=1)
    for name, other in {
        "split": _sample("a", split="val"),
        "mask": _sample("a", masked=False),
        "label": Sample(**{**vars(one), "instances": (Instance("x", None, (0, 0, 1, 1)),)}),
    }.items():
        assert hash_of(name, [other, two]) != hash_of("1", [one, two]), name
    assert sample_digest(one, "x") != sample_digest(one, "y")


HASH = "e44cec12d2d1643f"
"""Of the sample below: hashes are stored and compared over years, machines and versions of Python."""


def _hash_of_a_known_sample() -> str:
    mask_HW = np.zeros((20, 30), np.bool_)
    mask_HW[3:9, 4:12] = True
    crack = Instance("crack", encode(mask_HW), (4.1, 3.0, 12.0, 1e3 / 3 * 0.03))
    digest = sample_digest(Sample("fa\u00e7ade/1.png", "x", (20, 30), (crack,), "train"), "ab")
    return content_hash("dataset", ("crack",), [digest, "b"])


def test_the_content_hash_is_the_same_on_every_machine() -> None:
    assert _hash_of_a_known_sample() == HASH


def test_the_content_hash_does_not_depend_on_the_process(tmp_path: Path) -> None:
    """Neither the seed of Python's own hashes nor language, folder or time zone count."""
    check = "from tests.datasets.test_shards import _hash_of_a_known_sample as h; print(h())"
    own = {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Pacific/Chatham"}
    env = {**os.environ, **own, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == HASH


def test_the_summary_of_a_shard_that_is_there_equals_the_one_from_writing_it(tmp_path: Path) -> None:
    uri = str(tmp_path / "s.parquet")
    finding = Finding("image-missing", Severity.SKIPPED, "gone", file="x.jpg")
    assert write_shard(uri, [(_sample("a"), b"a")], findings=[finding]) == read_summary(uri)
    assert read_summary(uri).findings[0]["code"] == "image-missing"


def test_an_empty_shard_keeps_its_findings(tmp_path: Path) -> None:
    uri = str(tmp_path / "s.parquet")
    write_shard(uri, [], findings=[Finding("image-missing", Severity.SKIPPED, "gone")])
    assert read_summary(uri).rows == ()
    assert len(read_summary(uri).findings) == 1


def test_a_folder_without_a_manifest_is_not_taken_for_a_data_set(tmp_path: Path) -> None:
    write_shard(str(tmp_path / "s.parquet"), [(_sample("a"), b"a")])
    with pytest.raises(DataError, match="no complete data set"):
        Dataset.open(str(tmp_path))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    dataset = _make(str(tmp_path), [_sample("a")])
    (tmp_path / "shard-00000.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"shard-00000\.parquet"):
        list(dataset.samples())
