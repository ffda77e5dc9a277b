"""Whatever a server does, in the end there is a whole file with the right bytes, or none and a clear error."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from segdist.core import storage
from segdist.core.downloads import Patience, fetch
from segdist.core.errors import SegdistError, StorageError, WeightsError
from tests.core import web
from tests.core.web import CONTENT, SHA256, SIZE, Act, Server

SHORT = Patience(answer=0.5, silence=0.3, window=0.3, rate=10_000, pauses=(0.0, 0.0))
LONG = Patience(pauses=(0.0, 0.0))


@pytest.fixture
def server() -> Iterator[Server]:
    with web.web_server() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pt"


def get(server: Server, file: Path, patience: Patience = LONG) -> list[int]:
    """What was told meanwhile."""
    told: list[int] = []
    fetch(server.address, file, size=SIZE, sha256=SHA256, patience=patience, told=told.append)
    assert file.read_bytes() == CONTENT
    assert [one.name for one in file.parent.iterdir()] == [file.name], "nothing else is left"
    return told


def part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def test_a_file_comes_in_one_request_and_its_growth_is_told(server: Server, file: Path) -> None:
    told = get(server, file)
    assert server.ranges == [""]
    assert told == sorted(told)
    assert told[-1] == SIZE


@pytest.mark.parametrize(
    ("acts", "rest_was_asked_for"),
    [
        ([web.ending_early], True),
        ([web.ending_early, web.ending_early], True),
        ([web.ending_early, web.ignoring_ranges], True),
        ([web.ending_early, web.another_range], True),
        ([web.ending_early, web.no_such_range], True),
        ([web.saying(503), web.saying(429)], False),
        ([web.endless], False),
    ],
    ids=["ends", "ends_often", "ignores_ranges", "another_range", "no_such_range", "busy", "endless"],
)
def test_a_file_that_comes_in_pieces_is_whole(
    acts: list[Act], rest_was_asked_for: bool, server: Server, file: Path
) -> None:
    server.acts[:] = acts
    get(server, file)
    assert any(server.ranges) is rest_was_asked_for
    assert len(server.ranges) <= len(acts) + 1


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (web.stalling, r"says nothing for 0\.3 seconds"),
        (web.mute, r"says nothing for 0\.[35] seconds"),
        (web.spelling_headers, "says nothing for"),
        (web.dripping, "sends less than 10,000 bytes a second"),
        (web.saying(503), "says 503"),
    ],
    ids=["stalls", "mute", "spells_headers", "drips", "busy"],
)
def test_a_server_that_does_not_go_on_is_given_up_and_told_of(
    act: Act, message: str, server: Server, file: Path
) -> None:
    server.acts[:] = [act] * 3
    with pytest.raises(WeightsError, match=rf"weights\.pt cannot be fetched: .*{message}.*run the same command again"):
        get(server, file, SHORT)
    assert len(server.ranges) == 3
    assert not file.exists()
    get(server, file)


@pytest.mark.parametrize(
    ("acts", "message"),
    [
        ([web.other_bytes], f"must be the file of {SIZE:,} bytes with SHA-256 {SHA256}, but is one of .* was deleted"),
        ([web.another_length], f"must have {SIZE:,} bytes, but the server has another file, of {SIZE + 1:,}"),
        ([web.less_than_it_has], f"must have {SIZE:,} bytes, but the server has another file, of 100"),
        ([web.saying(404)], "the server says 404 Not Found.*name its path"),
        ([web.leading_to("/other"), web.other_bytes], "must be the file of"),
        ([web.leading_to("ftp://127.0.0.1/weights.pt")] * 3, "cannot be fetched"),
        ([web.leading_to("file:///etc/passwd")], "cannot be fetched"),
    ],
    ids=["other_bytes", "longer", "shorter", "missing", "leads_elsewhere", "leads_to_ftp", "leads_to_a_file"],
)
def test_another_file_is_never_taken(acts: list[Act], message: str, server: Server, file: Path) -> None:
    server.acts[:] = acts
    with pytest.raises(WeightsError, match=message):
        get(server, file)
    assert list(file.parent.iterdir()) == []
    assert server.acts == []
    get(server, file)


def test_a_connection_that_brought_much_is_no_reason_to_give_up(server: Server, file: Path) -> None:
    server.acts[:] = [web.one_more_mebibyte] * 3
    get(server, file, Patience(pauses=(0.0,)))
    assert server.ranges == ["", f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


def test_a_redirect_to_the_file_is_followed_with_the_range(server: Server, file: Path) -> None:
    server.acts[:] = [web.ending_early, web.leading_to("/elsewhere")]
    get(server, file)
    assert server.ranges[1] == server.ranges[2] == f"bytes={SIZE * 2 // 3}-"


def test_the_rest_of_another_file_is_not_taken(server: Server, file: Path) -> None:
    server.acts[:] = [web.ending_early, web.range_of_another_file]
    with pytest.raises(WeightsError, match=f"has another file, of {2 * SIZE:,}"):
        get(server, file)
    assert not file.exists()


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, file: Path) -> None:
    part_of(file).write_bytes(web.OTHER[:1000])
    part_of(file).with_name(f"{file.name}.part.etag").write_text('"old"')
    get(server, file)
    assert server.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("left", [1000, SIZE, SIZE + 5], ids=["some", "all", "more"])
def test_what_was_left_of_something_else_is_thrown_away(left: int, server: Server, file: Path) -> None:
    part_of(file).write_bytes(bytes(left))
    get(server, file)
    assert server.ranges[-1] == ""


def test_a_whole_part_needs_no_server(file: Path, server: Server) -> None:
    part_of(file).write_bytes(CONTENT)
    get(server, file)
    assert server.ranges == []


def test_nobody_listens(file: Path) -> None:
    with web.web_server() as server:
        pass
    with pytest.raises(WeightsError, match=r"cannot be fetched: .*refused.* 0 of"):
        get(server, file)


def test_the_disk_must_hold_it(server: Server, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(file.parent)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: usage._replace(total=10**12, free=storage.SPARE_BYTES + SIZE - 1)
    )
    with pytest.raises(StorageError, match=rf"has {SIZE:,} bytes.*SEGDIST_CACHE"):
        get(server, file)
    assert server.ranges == []
    part_of(file).write_bytes(CONTENT[:1])
    get(server, file)


def test_an_error_of_the_disk_is_no_error_of_the_server(
    server: Server, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of(file).mkdir()
    with pytest.raises((OSError, SegdistError)) as caught:
        get(server, file)
    assert not isinstance(caught.value, WeightsError)
