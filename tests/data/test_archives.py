"""Archives: read like the folder they were packed from, and nothing in them reaches out of theirs."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdist import storage
from segdist.data import archives
from segdist.data.archived import open_format
from segdist.errors import DataError
from segdist.masks import encode


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "a.png")
    mask = encode(np.eye(20, 30))
    segmentation = {"size": [20, 30], "counts": mask.counts.decode()}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "segmentation": segmentation}
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "crack"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def _packed(folder: Path, name: str) -> Path:
    archive = folder.with_name(name)
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as out:
            for file in folder.iterdir():
                out.write(file, f"export/{file.name}")
            out.writestr("__MACOSX/export/._a.png", b"no image")
    else:
        with tarfile.open(archive, "w:gz" if name.endswith("gz") else "w") as bundle:
            bundle.add(folder, "export")
    return archive


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_an_archive_gives_the_samples_and_bytes_of_its_folder_on_a_node_with_another_cache(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = _packed(folder, name)
    source = open_format("coco", {"path": str(archive)})
    (sample,) = source.read(lambda finding: pytest.fail(str(finding)))
    (plain,) = open_format("coco", {"path": str(folder)}).read(lambda finding: pytest.fail(str(finding)))
    assert sample.instances == plain.instances
    assert sample.image_uri == f"{archive}!/a.png"
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "other-node"))
    elsewhere = pickle.loads(pickle.dumps(source))
    assert elsewhere.image_bytes(sample) == (folder / "a.png").read_bytes()
    assert (tmp_path / "other-node").exists()


def test_an_archive_is_unpacked_once_and_its_signature_needs_no_unpacking(folder: Path, cache: Path) -> None:
    archive = _packed(folder, "x.zip")
    source = open_format("coco", {"path": str(archive)})
    before = source.signature()
    assert not cache.exists()
    first = archives.unpacked(str(archive))
    stamp = Path(first, "a.png").stat().st_mtime_ns
    assert archives.unpacked(str(archive)) == first
    assert Path(first, "a.png").stat().st_mtime_ns == stamp
    assert not list((cache / "archives").glob("*.part"))
    archive.write_bytes(_packed(folder, "y.tar").read_bytes())
    assert source.signature() != before


def test_a_place_inside_an_archive_in_a_bucket_is_read(folder: Path, s3_bucket: str) -> None:
    place = f"{s3_bucket}/{folder.parent.name}/x.zip"
    storage.write_atomic(place, _packed(folder, "x.zip").read_bytes())
    source = open_format("coco", {"path": f"{place}!/coco.json"})
    (sample,) = source.read(lambda finding: pytest.fail(str(finding)))
    assert sample.image_uri == f"{place}!/a.png"
    assert source.image_bytes(sample) == (folder / "a.png").read_bytes()
    with pytest.raises(DataError, match="holds no `nowhere`"):
        archives.unpacked(f"{place}!/nowhere")


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png", "..\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_would_escape_is_refused_and_nothing_is_left(
    tmp_path: Path, cache: Path, name: str, kind: str
) -> None:
    archive = tmp_path / f"bad.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr(name, b"x")
    else:
        with tarfile.open(archive, "w") as bundle:
            info = tarfile.TarInfo(name)
            info.size = 1
            bundle.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="outside of the folder"):
        archives.unpacked(str(archive))
    assert not list(tmp_path.rglob("evil.png"))
    assert not list((cache / "archives").glob(".*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as bundle:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        bundle.addfile(info)
    with pytest.raises(DataError, match="`link` is a link or a device"):
        archives.unpacked(str(tmp_path / "bad.tar"))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as out:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        out.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="`link` is a link or a device"):
        archives.unpacked(str(tmp_path / "bad.zip"))


def test_a_bomb_is_stopped_by_what_comes_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("zeros.png", bytes(8 << 20))
    with pytest.raises(DataError, match="a bomb"):
        archives.unpacked(str(tmp_path / "bomb.zip"))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_damaged_or_missing_archive_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"There is no archive .*{name}"):
        archives.unpacked(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(DataError, match=f"{name} cannot be unpacked"):
        archives.unpacked(str(tmp_path / name))
