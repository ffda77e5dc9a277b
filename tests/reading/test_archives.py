"""Archives: read like the folder they were packed from, and nothing in them reaches out of theirs."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.masks import encode
from segdist.reading import archives
from segdist.reading.archived import open_format


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
    annotation: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20]}
    annotation |= {"segmentation": segmentation, "area": mask.area}
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


def _zip(file: Path, *members: tuple[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", how) as out:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in members:
            out.writestr(name, content, how)
    return file


def _tar(file: Path, *members: tuple[str, bytes], mode: str = "w", **options: Any) -> Path:
    opened: Any = tarfile.open
    with opened(file, mode, **options) as bundle:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return file


def _refusal(archive: Path) -> str:
    with pytest.raises(DataError) as caught:
        archives.unpacked(str(archive))
    assert str(archive) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_stored_or_deflated(tmp_path: Path, how: int) -> None:
    """873 bytes of bzip2 make two gigabytes, in one piece."""
    said = _refusal(_zip(tmp_path / "x.zip", ("a.png", bytes(1000)), how=how))
    assert f"`a.png` is compressed by method {how}" in said


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_what_a_tar_skips_counts_as_well(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 20)
    archive = _tar(tmp_path / f"x.tar.{suffix}", ("__MACOSX/._a", bytes(4 << 20)), mode=f"w:{suffix}")
    assert "`__MACOSX/._a` makes it more than 200 times as large as packed: a bomb" in _refusal(archive)


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz", "tar"])
def test_every_compression_of_a_tar_is_read_also_in_several_streams(tmp_path: Path, suffix: str) -> None:
    content = np.random.default_rng(0).bytes(200_000)
    plain = _tar(tmp_path / "plain", ("a.bin", content), ("deep/b.bin", content[::-1])).read_bytes()
    module = {"tar.gz": gzip, "tgz": gzip, "tar.bz2": bz2, "tar.xz": lzma}.get(suffix)
    pieces = [plain[:100_000], plain[100_000:]]
    packed = b"".join(module.compress(piece) for piece in pieces) if module else plain
    (tmp_path / f"x.{suffix}").write_bytes(packed)
    root = Path(archives.unpacked(str(tmp_path / f"x.{suffix}")))
    assert (root / "a.bin").read_bytes() == content
    assert (root / "deep" / "b.bin").read_bytes() == content[::-1]
    (tmp_path / f"cut.{suffix}").write_bytes(packed[:-60_000])
    assert "cannot be unpacked" in _refusal(tmp_path / f"cut.{suffix}")


def test_xz_may_not_choose_how_much_memory_it_takes(tmp_path: Path) -> None:
    plain = _tar(tmp_path / "plain", ("a.bin", b"x")).read_bytes()
    header = bytearray(lzma.compress(plain, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]))
    at = header.index(b"\x21\x01", 12) + 2  # of the filter's one property: the size of the dictionary
    header[at] = 37  # 1.5 GiB
    header[12 + 4 * (header[12] + 1) - 4 : 12 + 4 * (header[12] + 1)] = zlib.crc32(
        header[12 : 12 + 4 * (header[12] + 1) - 4]
    ).to_bytes(4, "little")
    (tmp_path / "x.tar.xz").write_bytes(header)
    assert "Memory usage limit" in _refusal(tmp_path / "x.tar.xz")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_before_a_header_of_a_tar_is_small(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("head")
    info.type, info.size = kind, 6 << 30  # what it says; nothing follows
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert "`head` has a header of more than 65,536 bytes" in _refusal(tmp_path / "x.tar")


def test_headers_for_all_members_are_small_together(tmp_path: Path) -> None:
    many = b"".join(_pax({f"key{n}": "v" * 500}, tarfile.XGLTYPE) for n in range(200))
    (tmp_path / "x.tar").write_bytes(many + bytes(10240))
    assert "has a header of more than 65,536 bytes" in _refusal(tmp_path / "x.tar")


def test_headers_before_headers_end(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(_pax({"comment": "v"}, tarfile.XHDTYPE) * 5000 + bytes(10240))
    assert "recursion" in _refusal(tmp_path / "x.tar")


def _pax(attributes: dict[str, str], kind: bytes) -> bytes:
    """An extra header."""
    rests = [f" {key}={value}\n".encode() for key, value in attributes.items()]
    record = b"".join(str(len(rest) + len(str(len(rest) + 3))).encode() + rest for rest in rests)
    info = tarfile.TarInfo("head")
    info.type, info.size = kind, len(record)
    return info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(-(-len(record) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    "attributes",
    [{"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {}],
)
def test_sparse_files_are_refused_before_their_map_is_read(tmp_path: Path, attributes: dict[str, str]) -> None:
    info = tarfile.TarInfo("holes.png")
    info.type = tarfile.REGTYPE if attributes else tarfile.GNUTYPE_SPARSE
    before = _pax(attributes, tarfile.XHDTYPE) if attributes else b""
    (tmp_path / "x.tar").write_bytes(before + info.tobuf(tarfile.USTAR_FORMAT) + bytes(10240))
    assert "is a sparse file" in _refusal(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["", ".", "./", "...", "a/.../b", " ", "a/ /b", "a\0.png"])
def test_a_member_has_a_name(tmp_path: Path, kind: str, name: str) -> None:
    if kind == "tar" and (name.endswith("/") or "\0" in name):
        pytest.skip("a tar ends names at NUL, and takes a slash for a folder")
    archive = tmp_path / f"x.{kind}"
    if kind == "zip":
        _zip(archive, ("placeholder", b"x"))
        written = name.encode()
        archive.write_bytes(_renamed(archive.read_bytes(), b"placeholder", written))
    else:
        _tar(archive, (name, b"x"))
    if name == "./":  # a folder
        assert list(Path(archives.unpacked(str(archive))).iterdir()) == []
    else:
        assert "has no name, or one of dots, blanks or NUL" in _refusal(archive)


def _renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    """A zip of one stored member under another name, written by hand: the library would change it."""
    local, table = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    first = bytearray(content[local:table])
    entry, tail = bytearray(content[table:end]), bytearray(content[end:])
    first[26:28] = entry[28:30] = struct.pack("<H", len(new))
    first[30 : 30 + len(old)] = new
    entry[46 : 46 + len(old)] = new
    tail[12:20] = struct.pack("<II", len(entry), len(first))
    return bytes(first + entry + tail)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["a" * 256, "a/" * 600 + "b", "é" * 130])
def test_names_longer_than_file_systems_have_them_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    archive = tmp_path / f"x.{kind}"
    said = _refusal(_zip(archive, (name, b"x")) if kind == "zip" else _tar(archive, (name, b"x")))
    assert "has a name of more than 255 bytes, or 1000 with its folders" in said
    assert len(said) < 1000


def test_a_name_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "x.tar", ("gr\udcfcn.png", b"x"), format=tarfile.GNU_FORMAT)
    assert "has a name that is not UTF-8" in _refusal(archive)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b", "a/b/c")])
def test_a_file_where_another_member_needs_a_folder_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for archive in (
        _zip(tmp_path / "x.zip", *((name, b"x") for name in names)),
        _tar(tmp_path / "x.tar", *((name, b"x") for name in names)),
    ):
        assert f"`{names[1]}` has the place of another member" in _refusal(archive)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "`./a` is a duplicate name" in _refusal(_zip(tmp_path / "x.zip", ("a", b"x"), ("./a", b"y")))
    assert "`a//b` is a duplicate name" in _refusal(_tar(tmp_path / "x.tar", ("a/b", b"x"), ("a//b", b"y")))


def test_names_that_differ_in_case_or_form_are_two_files_where_the_disk_tells_them_apart(tmp_path: Path) -> None:
    names = ["Photo.png", "photo.PNG", "façade.png", "fac\N{COMBINING CEDILLA}ade.png"]
    try:
        root = Path(archives.unpacked(str(_zip(tmp_path / "x.zip", *((n, n.encode()) for n in names)))))
    except DataError as error:
        assert "two names that this disk holds equal" in str(error)  # noqa: PT017 - depends on the disk
    else:
        assert all((root / name).read_bytes() == name.encode() for name in names)


def test_members_of_a_zip_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "x.zip", ("a.png", bytes(100)), ("b.png", bytes(100)))
    content = bytearray(archive.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[second + 42 : second + 46] = struct.pack("<I", 10)
    archive.write_bytes(content)
    assert "`b.png` overlaps another one: a bomb" in _refusal(archive)


@pytest.mark.parametrize("field", [20, 42], ids=["size", "place"])
def test_a_zip_that_lies_about_sizes_and_places_is_refused(tmp_path: Path, field: int) -> None:
    archive = _zip(tmp_path / "x.zip", ("a.png", bytes(100)))
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02") + field
    content[at : at + 4] = struct.pack("<I", 0x7FFFFFFF)
    archive.write_bytes(content)
    assert "`a.png` reaches beyond the end of the file" in _refusal(archive)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["{n}", "{n}/", "__MACOSX/{n}", "a/b/c/{n}/d"])
def test_files_and_folders_are_counted_whatever_they_are(
    tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MEMBERS_ALLOWED", 50)
    monkeypatch.setattr(archives, "BYTES_PER_MEMBER", 1 << 20)
    members = [(name.format(n=n), b"") for n in range(60)]
    archive = tmp_path / f"x.{kind}"
    if kind == "zip":
        _zip(archive, *members)
    else:
        with tarfile.open(archive, "w:gz") as bundle:
            for written, _ in members:
                info = tarfile.TarInfo(written.rstrip("/"))
                info.type = tarfile.DIRTYPE if written.endswith("/") else tarfile.REGTYPE
                bundle.addfile(info)
    assert "comes after 50 others, the most that are unpacked" in _refusal(archive)


def test_a_table_of_too_many_members_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 20)
    assert "at most 20 members" in _refusal(_zip(tmp_path / "x.zip", *((str(n), b"") for n in range(30))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["zip", "tar", "tar.gz", "tar.xz"]), st.data())
def test_a_damaged_archive_is_read_or_named_and_nothing_else(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    mode = {"zip": "", "tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[kind]
    members = [("a.png", b"abc"), ("deep/" * 30 + "b.png", bytes(600)), ("é" * 60, b"")]
    archive = tmp_path / f"x.{kind}"
    archive = _tar(archive, *members, mode=mode) if mode else _zip(archive, *members)
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 3000) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    with suppress(DataError):
        archives.unpacked(str(archive))


def test_a_place_inside_stays_inside(folder: Path) -> None:
    archive = _packed(folder, "x.zip")
    with pytest.raises(DataError, match="holds no"):
        archives.unpacked(f"{archive}!/../../x.zip")
