"""Storage: whole files or none, the same calls for a path and for s3://, and errors that name the fix."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segdist.core import storage
from segdist.core.causes import cause_of
from segdist.core.errors import StorageError


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket") + "/" + tmp_path.name


def test_what_is_written_is_read_back_found_and_removed(root: str) -> None:
    uri = storage.join(root, "a/b", "c.bin")
    assert not storage.exists(uri)
    storage.write_atomic(uri, b"123")
    storage.write_atomic(uri, b"12345")
    assert storage.read_bytes(uri) == b"12345"
    assert [(e.uri, e.size) for e in storage.find(root, suffix=".bin")] == [(uri, 5)]
    stamp = storage.find(root)[0].stamp
    storage.write_atomic(uri, b"54321")
    assert storage.find(root)[0].stamp != stamp
    storage.remove(uri)
    assert not storage.exists(uri)
    assert storage.find(storage.join(root, "nowhere")) == []


def test_a_writable_place_passes_the_check_and_stays_empty(root: str) -> None:
    storage.check_writable(storage.join(root, "new"))
    assert storage.find(storage.join(root, "new")) == []


def test_a_folder_that_is_a_file_fails_the_check_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Cannot write .*storage="):
        storage.check_writable(str(tmp_path / "file" / "below"))


def test_a_bucket_that_is_not_there_fails_the_check_with_the_fix(s3_bucket: str) -> None:
    with pytest.raises(StorageError, match="bucket"):
        storage.check_writable("s3://no-such-bucket-here/x")


def test_an_object_store_that_is_away_for_a_moment_is_waited_for(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, file = f"{s3_bucket}/away/x", tmp_path / "x"
    file.write_bytes(b"1")
    there, pauses = os.environ["AWS_ENDPOINT_URL"], list[float]()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(storage, "_place", lambda _: there)

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        os.environ["AWS_ENDPOINT_URL"] = there

    monkeypatch.setattr("segdist.core.storage.time.sleep", wait)
    storage.upload(file, uri)
    calls: list[Callable[[], object]] = [
        lambda: storage.upload(file, uri),
        lambda: storage.write_atomic(uri, b"1"),
        lambda: storage.find(uri),
        lambda: storage.exists(uri),
        lambda: storage.read_bytes(uri),
        lambda: storage.download(uri, file),
        lambda: storage.remove(uri),
    ]
    for call in calls:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        call()
    assert pauses == [1.0] * len(calls)
    assert "does not answer; waiting for it" in capsys.readouterr().err
    monkeypatch.setattr(storage, "PATIENCE", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="Check AWS_ENDPOINT_URL"):
        storage.remove(uri)


def test_reading_from_a_bucket_that_is_not_there_names_the_bucket_and_not_the_path(s3_bucket: str) -> None:
    with pytest.raises(StorageError, match="Check its name and AWS_ENDPOINT_URL"):
        storage.read_bytes("s3://no-such-bucket-here/x")


def test_a_disk_that_is_full_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"Cannot write .*full: .*No space left.* Free some space"):
        storage.upload(_drawn(tmp_path / "file"), str(tmp_path / "full"))


def _drawn(file: Path) -> Path:
    file.write_bytes(bytes(100_000))
    return file


def test_an_endpoint_nobody_answers_at_is_an_error_with_the_fix(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        storage.read_bytes(s3_bucket + "/x")


def test_a_missing_file_is_named(root: str) -> None:
    with pytest.raises(StorageError, match=r"Cannot read .*nothing\.txt"):
        storage.read_bytes(storage.join(root, "nothing.txt"))


def test_a_failed_write_leaves_the_old_content_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "a.txt")
    storage.write_atomic(uri, b"old")

    def full_disk(_: Any, __: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        storage.write_atomic(uri, b"new")
    assert Path(uri).read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_without_s3fs_the_error_says_what_to_install() -> None:
    script = """
import sys
sys.modules["s3fs"] = None  # as if it were not installed
from segdist.core import storage
from segdist.core.causes import cause_of
try:
    storage.exists("s3://bucket/x")
except storage.StorageError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "pip install 'segdist[s3]'" in said


def test_arrow_reads_what_storage_wrote(root: str) -> None:
    uri = storage.join(root, "x/y.bin")
    storage.write_atomic(uri, b"abc")
    filesystem, path = storage.arrow_filesystem(uri)
    with filesystem.open_input_file(path) as stream:
        assert stream.read() == b"abc"


def test_json_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(StorageError, match=r"m\.json must be JSON"):
        storage.read_json(str(tmp_path / "m.json"))


@pytest.mark.parametrize(
    "uri",
    ["s3://KEY:pa55/word@bucket/x", "s3://bucket/x?access_key=KEY&secret_key=pa55/word", "https://me:pa55/word@h/x"],
)
def test_a_uri_with_credentials_is_refused_with_the_right_way(uri: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.exists(uri),
        lambda: storage.read_bytes(uri),
        lambda: storage.write_atomic(uri, b""),
        lambda: storage.find(uri),
        lambda: storage.arrow_filesystem(uri),
        lambda: storage.check_writable(uri),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"must not hold credentials.*in the environment") as caught:
            call()
        assert "pa55" not in str(caught.value)


def test_a_local_path_may_look_like_anything(tmp_path: Path) -> None:
    place = str(tmp_path / "me:pa55@host" / "token=abcdefgh")
    storage.write_atomic(place, b"x")
    assert storage.read_bytes(place) == b"x"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache folder lies by default, not made yet."""
    monkeypatch.delenv("SEGDIST_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"segdist-cache-{os.geteuid()}"


def test_the_cache_folder_is_made_for_this_user_alone_whatever_the_umask(own_cache: Path) -> None:
    before = os.umask(0)
    try:
        assert storage.cache_dir() == own_cache
    finally:
        os.umask(before)
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700
    own_cache.chmod(0o755)
    assert storage.cache_dir() == own_cache
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700, "made by an older version"


def test_a_cache_folder_that_another_user_could_have_filled_is_not_used(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    own_cache.symlink_to(tmp_path / "planted")
    with pytest.raises(StorageError, match=r"yours alone, but it is a link to .*planted.* SEGDIST_CACHE"):
        storage.cache_dir()
    own_cache.unlink()
    own_cache.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="it is a link to"):
        storage.cache_dir()
    own_cache.unlink()
    own_cache.write_text("")
    with pytest.raises(StorageError, match="it is no folder"):
        storage.cache_dir()
    own_cache.unlink()
    for mode in (0o777, 0o1777, 0o770, 0o702):
        own_cache.mkdir()
        own_cache.chmod(mode)
        with pytest.raises(StorageError, match=r"others may write into it.*chmod go-w"):
            storage.cache_dir()
        own_cache.rmdir()


def test_a_cache_folder_of_another_user_is_not_used(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache.mkdir(mode=0o700)
    owner = own_cache.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    monkeypatch.setenv("SEGDIST_CACHE", str(own_cache))
    with pytest.raises(StorageError, match=f"belongs to the user with the id {owner}. Set SEGDIST_CACHE"):
        storage.cache_dir()


def test_a_cache_folder_that_the_user_names_is_looked_at_as_well(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "deep" / "cache"
    monkeypatch.setenv("SEGDIST_CACHE", str(named))
    assert storage.cache_dir() == named
    assert stat.S_IMODE(named.stat().st_mode) == 0o700
    named.chmod(0o755)
    assert storage.cache_dir() == named
    assert stat.S_IMODE(named.stat().st_mode) == 0o755, "it is the user's own choice who may read"
    named.chmod(0o775)
    with pytest.raises(StorageError, match=f"others may write into it.*chmod go-w {named}"):
        storage.cache_dir()
    monkeypatch.setenv("SEGDIST_CACHE", "/proc/nowhere/cache")
    with pytest.raises(StorageError, match="Cannot make the cache folder /proc/nowhere/cache"):
        storage.cache_dir()
    assert not own_cache.exists()


def test_fetched_weights_lie_where_they_outlive_a_restart_unless_the_cache_is_moved(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert storage.weights_dir() == tmp_path / "home" / "segdist" / "weights"
    assert stat.S_IMODE((tmp_path / "home" / "segdist").stat().st_mode) == 0o700
    assert not own_cache.exists()
    (tmp_path / "home" / "segdist").chmod(0o777)
    with pytest.raises(StorageError, match="others may write into it"):
        storage.weights_dir()
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "named"))
    assert storage.weights_dir() == tmp_path / "named" / "weights"


def test_pipes_devices_and_links_that_lead_nowhere_or_to_folders_are_named_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_bytes(b"123")
    (tmp_path / "file").symlink_to("real/a.txt")
    for name, target in {"loop": ".", "root": "/", "nowhere": "gone", "self": "self", "endless": "/dev/zero"}.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    files, others = storage.find_all(str(tmp_path))
    assert [(Path(e.uri).name, e.size) for e in files] == [("file", 3), ("a.txt", 3)]
    assert {Path(uri).name: reason.rpartition(" ")[2] for uri, reason in others.items()} == {
        "loop": "followed", "root": "followed", "nowhere": "there", "self": "links", "endless": "device",
        "pipe": "device",
    }  # fmt: skip
    for name in ("pipe", "endless"):
        for read in (storage.read_bytes, lambda uri: storage.read_head(uri, 4), lambda uri: storage.read_tail(uri, 4)):
            with pytest.raises(StorageError, match=f"{name} must be a file"):
                read(str(tmp_path / name))


def test_a_folder_is_listed_up_to_a_number_of_files_and_the_whole_machine_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    monkeypatch.setattr(storage, "MOST_ENTRIES", 4)  # the folder counts too
    assert len(storage.find(str(tmp_path))) == 3
    (tmp_path / "d").touch()
    with pytest.raises(StorageError, match=f"at most 4 files, but {tmp_path} holds more.*Name the folder") as found:
        storage.find(str(tmp_path))
    assert "archives" in str(found.value)
    for root in ("/", "//", "/tmp/..", "file:///"):
        with pytest.raises(StorageError, match="but got /, the whole machine"):
            storage.find(root)


def test_file_systems_of_the_kernel_are_named_and_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("proc/1/fd", "shm"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").touch()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"proc {tmp_path}/proc proc rw 0 0\ntmpfs {tmp_path}/shm tmpfs rw 0 0\n")
    monkeypatch.setattr(storage, "_MOUNTS", mounts)
    files, others = storage.find_all(str(tmp_path))
    assert [Path(e.uri).name for e in files] == ["mounts", "a.txt"]
    assert others == {f"{tmp_path}/proc": "it is a file system of the kernel, which holds no data"}


@pytest.mark.parametrize(
    ("mounted", "kind"),
    [
        ("ext4", ""),
        ("overlay", ""),
        ("fuse.fuse-overlayfs", ""),
        ("fuseblk", ""),
        ("nfs4", "nfs4"),
        ("cifs", "cifs"),
        ("9p", "9p"),
        ("lustre", "lustre"),
        ("fuse.sshfs", "fuse.sshfs"),
        ("fuse.mount-s3", "fuse.mount-s3"),
    ],
)
def test_a_path_on_a_network_disk_is_known_also_behind_a_link_and_before_it_is_there(
    tmp_path: Path, mounted: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share, mounts = tmp_path / "of all", tmp_path / "mounts"
    share.mkdir()
    (tmp_path / "link").symlink_to(share)
    named = str(share).replace(" ", "\\040")
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {named} {mounted} rw 0 0\n/dev/b {named}/local ext4 rw 0 0\n")
    monkeypatch.setattr(storage, "_MOUNTS", mounts)
    for path in (share, share / "new" / "mlflow.db", tmp_path / "link" / "mlflow.db"):
        assert storage.network_file_system(path) == kind
    assert storage.network_file_system(share / "local" / "mlflow.db") == ""
    assert storage.network_file_system(tmp_path / "of all else") == ""
    monkeypatch.setattr(storage, "_MOUNTS", tmp_path / "nowhere")
    assert storage.network_file_system(share) == ""


def test_a_download_must_fit_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(b"1" * 100)
    free = storage.SPARE_BYTES + 99
    total = int(storage.SPARE_BYTES / storage.SPARE_FRACTION)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, 0, free))
    with pytest.raises(StorageError, match=r"a.zip must fit on the disk.* but has 100 bytes") as caught:
        storage.download(str(tmp_path / "a.zip"), tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
    found = cause_of(caught.value)
    assert found is not None
    assert found.kind == "disk"
    free += 1
    storage.download(str(tmp_path / "a.zip"), tmp_path / "b.zip")
    assert (tmp_path / "b.zip").stat().st_size == 100
    total, free = 2_000, 199  # a small disk: a twentieth of it is left
    with pytest.raises(StorageError, match="leave 100 bytes"):
        storage.download(str(tmp_path / "a.zip"), tmp_path / "c.zip")
    free += 1
    storage.download(str(tmp_path / "a.zip"), tmp_path / "c.zip")


def test_the_tail_of_a_file_is_its_end_however_short_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "none").touch()
    assert storage.read_tail(str(tmp_path / "a"), 2) == b"45"
    assert storage.read_tail(str(tmp_path / "a"), 9) == b"12345"
    assert storage.read_tail(str(tmp_path / "none"), 9) == b""
    with pytest.raises(StorageError, match="Check the path"):
        storage.read_tail(str(tmp_path / "gone"), 9)


def test_a_folder_may_be_deeper_than_python_calls(tmp_path: Path) -> None:
    place, at = tmp_path, os.open(tmp_path, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=at)
        at, before = os.open("d", os.O_RDONLY, dir_fd=at), at
        os.close(before)
    os.close(os.open("a.txt", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    try:
        assert [Path(e.uri).name for e in storage.find(str(place))] == ["a.txt"]
    finally:  # pytest clears away by a function that calls itself for each folder
        subprocess.run(["rm", "-rf", str(place / "d")], check=True)


def test_a_file_of_gigabytes_is_not_read_as_a_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(storage.MOST_BYTES + 1)
    with pytest.raises(StorageError, match=r"a\.png must have at most 600,000,000 bytes, but has 600,000,001"):
        storage.read_bytes(str(tmp_path / "a.png"))


def test_an_object_that_is_larger_than_memory_is_refused_as_a_file_is(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_bucket}/large"
    storage.write_atomic(uri, b"12345")
    monkeypatch.setattr(storage, "MOST_BYTES", 4)
    with pytest.raises(StorageError, match="at most 4 bytes, but has 5"):
        storage.read_bytes(uri)


def test_bytes_that_move_are_counted_once_by_where_they_lie(root: str, tmp_path: Path) -> None:
    place = "local" if storage.is_local(root) else "s3"
    uri, file = storage.join(root, "x.bin"), tmp_path / "here.bin"
    storage.take_traffic()
    storage.write_atomic(uri, b"12345")
    storage.read_bytes(uri)
    storage.download(uri, file)
    storage.upload(file, storage.join(root, "y.bin"))
    assert storage.take_traffic() == {("written", place): 10, ("read", place): 10}
    assert storage.take_traffic() == {}
