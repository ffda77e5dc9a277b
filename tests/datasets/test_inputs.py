"""Which files are read, whatever they are called, and which are named because they are not."""

import base64
import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segdist.core import storage
from segdist.core.errors import DataError, StorageError
from segdist.core.records import Finding
from segdist.datasets.inputs import Input, Reader, find_inputs
from segdist.formats import images as bare
from segdist.formats.coco import Format, Options
from segdist.reading import table_rows
from segdist.reading.archives import is_archive, split_place
from segdist.reading.listing import Listing
from segdist.reading.sources import read_place
from segdist.reading.table_rows import TableRows

ODD = (
    "a::b", "a#b", "a?b", "a%20b", "a*b", "a[1]b", "~a", "~", "a b", "a\nb", "-a", "file:a", "!", "{a}", "$HOME", "a;b",
    "'a'", '"a"', "local:a", "s3:a", "a#row=1", "\u00e4\u4e2d", "a\\b", "a,b", "a&b=c", "\u202ea",
)  # fmt: skip


def photo(shade: int = 9, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), shade, np.uint8)).save(out, kind)
    return out.getvalue()


def found(*places: Path | str) -> tuple[list[Input], dict[str, str]]:
    unread: dict[str, str] = {}
    return list(find_inputs([str(p) for p in places], unread.__setitem__)), unread


def test_files_and_folders_of_odd_names_are_read(tmp_path: Path) -> None:
    for name in ODD:
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / f"{name}.png").write_bytes(photo())
    inputs, unread = found(tmp_path / "all")
    assert {one.name for one in inputs} == {f"{name}/{name}.png" for name in ODD}
    assert unread == {}
    reader = Reader()
    for name in ODD:
        for place in (tmp_path / "all" / name, tmp_path / "all" / name / f"{name}.png"):
            (one,), _ = found(place)
            assert reader.read(one) == photo()


def test_data_sets_of_odd_names_are_read_and_stored(tmp_path: Path) -> None:
    for name in ODD:
        folder = tmp_path / f"{name}-set" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.png").write_bytes(photo())
        image = {"id": 1, "file_name": f"{name}.png", "width": 8, "height": 6}
        drawn = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "segmentation": [[1, 1, 4, 1, 4, 4]]}
        content = {"images": [image], "annotations": [drawn], "categories": [{"id": 1, "name": "crack"}]}
        (folder / "coco.json").write_text(json.dumps(content))
        ((source, sample),) = read_place(str(folder))
        assert source.image_bytes(sample) == photo()
        place = storage.join(str(folder), f"{name}.bin")
        storage.write_atomic(place, b"1")
        assert (storage.read_bytes(place), storage.exists(place)) == (b"1", True)
        assert place in [entry.uri for entry in storage.find(str(folder))]
        storage.remove(place)
        assert not storage.exists(place)


def test_relative_paths_of_odd_names_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ODD:
        if name != "~":  # a home folder, as in a shell
            Path(f"{name}.png").write_bytes(photo())
            assert storage.read_bytes(f"{name}.png") == photo()
    Path("x").mkdir()
    Path("x/http:").mkdir()
    Path("x/http:/a.png").write_bytes(photo())
    assert storage.read_bytes("x/http://a.png") == photo()
    assert storage.read_bytes(f"file://{tmp_path}/a::b.png") == photo()


def test_a_name_with_nul_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no NUL"):
        storage.read_bytes(f"{tmp_path}/a\0b.png")


def test_folders_that_are_called_like_archives_are_folders(tmp_path: Path) -> None:
    for name in ("photos!", "a.zip", "b.zip!", "c.tar.gz!/d.zip"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(photo())
        assert [one.name for one in found(tmp_path / name)[0]] == ["1.png"]
    inside = tmp_path / "photos!" / "real.zip"
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("train/2.png", photo())
        archive.writestr("train/3.png", photo())
    assert is_archive(str(inside))
    assert split_place(f"{inside}!/train") == (str(inside), "train")
    inputs, _ = found(f"{inside}!/train")
    assert [one.name for one in inputs] == ["2.png", "3.png"]
    assert Reader().read(inputs[0]) == photo()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(photo())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")).write_bytes(photo())
    inputs, unread = found(tmp_path)
    assert [one.name for one in inputs] == ["good.png"]
    assert list(unread.items()) == [(f"{tmp_path}/bad\\xff.png", "its name is no UTF-8 text; rename it")]


def test_photo_formats_are_read_by_all_their_suffixes_and_others_are_named(tmp_path: Path) -> None:
    read = {"jfif": "JPEG", "jpe": "JPEG", "JPG": "JPEG", "gif": "GIF", "avif": "AVIF", "webp": "WEBP", "tif": "TIFF"}
    read |= {"pgm": "PPM", "dib": "BMP", "apng": "PNG", "j2k": "JPEG2000", "png": "JPEG"}  # the last by its content
    for suffix, kind in read.items():
        (tmp_path / f"a.{suffix}").write_bytes(photo(kind=kind))
    for name in ("b.ico", "b.psd", "b.svg", "b.CR2", "b.vrt", "b.dng"):
        (tmp_path / name).write_bytes(b"whatever")
    (tmp_path / "c").write_bytes(photo())
    (tmp_path / "c.jpg_original").write_bytes(photo(kind="JPEG"))
    (tmp_path / "d.bin").write_bytes(b"\0\0\1\0\1\0")
    for name in ("e.bin", "notes.txt", "a.json", "Makefile"):
        (tmp_path / name).write_bytes(b"text")
    inputs, unread = found(tmp_path)
    assert {one.name for one in inputs} == {f"a.{suffix}" for suffix in read}
    assert {Path(uri).name for uri in unread} == {
        "b.ico", "b.psd", "b.svg", "b.CR2", "b.vrt", "b.dng", "c", "c.jpg_original", "d.bin",
    }  # fmt: skip
    assert "does not end like one" in unread[f"{tmp_path}/c"]
    assert "CR2 is not read" in unread[f"{tmp_path}/b.CR2"]
    findings: list[Finding] = []
    assert len(list(bare.Format(bare.Options(path=str(tmp_path))).read(findings.append))) == len(read)
    assert {f.file for f in findings if f.code == "image-unread"} == set(unread)


def test_a_place_with_nothing_but_other_formats_says_which(tmp_path: Path) -> None:
    (tmp_path / "b.psd").write_bytes(b"8BPS")
    with pytest.raises(DataError, match=r"b\.psd: PSD is not read"):
        found(tmp_path)


def test_coco_names_images_in_other_formats_beside_it(tmp_path: Path) -> None:
    (tmp_path / "b.psd").write_bytes(b"8BPS")
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    findings: list[Finding] = []
    list(Format(Options(path=str(tmp_path))).read(findings.append))
    assert [(f.code, f.file) for f in findings] == [("image-unread", f"{tmp_path}/b.psd")]


NAMES: dict[str, Callable[[], pa.Array]] = {
    "nul": lambda: pa.array(["a\0b.png", "good.png"]),
    "long": lambda: pa.array(["a" * 10**6, "good.png"]),
    "none": lambda: pa.array([None, "good.png"]),
    "no text": lambda: pa.array([b"a\xff.png", b"good.png"]).view(pa.string()),
    "outside": lambda: pa.array(["../../etc/passwd", "good.png"]),
    "numbers": lambda: pa.array([1, 2]),
    "lists": lambda: pa.array([["a"], ["b", "c"]]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_no_name_in_a_table_keeps_its_image_from_being_read(tmp_path: Path, kind: str) -> None:
    table = pa.table({"image": [photo(1), photo(2)], "file_name": NAMES[kind]()})
    pq.write_table(table, tmp_path / "t.parquet")
    inputs, _ = found(tmp_path)
    reader = Reader()
    assert [reader.read(one) for one in inputs] == [photo(1), photo(2)]
    assert all(0 < len(one.name) < 5_000 for one in inputs)


def test_a_table_without_images_among_photos_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(photo())
    pq.write_table(pa.table({"x": [1]}), tmp_path / "numbers.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    inputs, unread = found(tmp_path)
    assert [one.name for one in inputs] == ["a.png"]
    assert {Path(uri).name for uri in unread} == {"numbers.parquet", "broken.parquet"}
    with pytest.raises(DataError, match="column of encoded images"):
        found(tmp_path / "numbers.parquet")


def test_rows_are_found_in_any_order_however_few_of_them_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [bytes([n]) * 1_000 for n in range(70)]
    pq.write_table(pa.table({"image": values}), tmp_path / "t.parquet", row_group_size=30)
    monkeypatch.setattr(table_rows, "_MOST_BYTES", 10_000)
    rows = TableRows()
    order = [0, 1, 69, 29, 30, *np.random.default_rng(0).permutation(70).tolist()]
    assert [rows.cell(f"{tmp_path}/t.parquet#row={n}", "image") for n in order] == [values[n] for n in order]
    for place in ("t.parquet#row=70", "t.parquet#row=x", "t.parquet"):
        with pytest.raises(DataError):
            rows.cell(f"{tmp_path}/{place}", "image")


def test_a_table_that_unpacks_to_more_than_images_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_rows, "_LARGEST_VALUE", 10**6)
    table = pa.table({"image": [bytes(10**7)]})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "t.parquet").stat().st_size < 10**5
    (one,), _ = found(tmp_path)
    with pytest.raises(DataError, match="10 MB a row, more than any image"):
        Reader().read(one)


def test_rows_that_share_one_large_value_are_read_a_few_at_a_time_and_not_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_rows, "_LARGEST_VALUE", 10**6)
    monkeypatch.setattr(table_rows, "_ALWAYS_ALLOWED", 10**6)
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array([b"x" * 400_000]))
    pq.write_table(pa.table({"image": values}), tmp_path / "t.parquet")
    place, sizes = f"{tmp_path}/t.parquet", list[int]()
    with pytest.raises(DataError, match="more than 20 times what it stores"):
        sizes.extend(batch.nbytes for batch in TableRows().batches(place))
    for batch in itertools.islice(TableRows().batches(place), 5):
        sizes.append(batch.nbytes)
    assert sizes
    assert max(sizes) < 10**6
    assert TableRows().cell(f"{place}#row=99", "image") == b"x" * 400_000


def test_a_listing_names_what_it_left_out_once(tmp_path: Path) -> None:
    (tmp_path / "a.ico").write_bytes(b"")
    files = Listing(str(tmp_path))
    assert files.unread == {"a.ico": "ICO is not read; convert it to PNG, TIFF or JPEG"}
    assert files.images == []


def test_heic_is_read_with_its_library(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    (tmp_path / "a.heic").write_bytes(HEIC)
    (one,), _ = found(tmp_path)
    from segdist.reading.images import decode, header_of

    content: Any = Reader().read(one)
    assert header_of(content).size_hw == (64, 48)
    image_HWC = decode(content).image_HWC
    wanted = np.zeros((64, 48, 3), int)
    wanted[:32] = 200, 60, 20
    assert np.abs(image_HWC.astype(int) - wanted).mean() < 12


HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABoQABAAAAAAAAACUAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAA"
    "AADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkA"
    "AAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAA"
    "AAAoY2xhcAAAADAAAAABAAAAQAAAAAH////wAAAAAgAAAAAAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAC"
    "1tZGF0AAAAISgBr1jm9Oq//9V1//y0/Ie9zx6WX/+xn0Z7gob/EX79/A=="
)
"""64 x 48 pixels, the upper half orange: `Image.save(out, "HEIF", quality=40)` of pillow-heif, which we do not use."""
