"""Why something ended is told in a sentence with the fix, by the words that systems and libraries have for it."""

import resource
import shutil
import socket
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from segdist.core.causes import Cause, cause_of, is_out_of_memory, why
from segdist.core.errors import StorageError

FULL = "/dev/full"
"""A file of Linux to which nothing can be written: its disk is full."""


def _many_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 8, before[1]))
    try:
        with ExitStack() as kept:
            for _ in range(100):
                kept.enter_context(Path("/dev/null").open())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _grown(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, before[1]))
    try:
        (folder / "grown").write_text("0123456789")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


REAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "Python's memory": (lambda _: bytearray(10**17), "memory"),
    "NumPy's memory": (lambda _: np.zeros((10**9, 10**6)), "memory"),
    "torch's memory": (lambda _: torch.zeros((10**9, 10**6)), "memory"),
    "OpenCV's memory": (lambda _: cv2.resize(np.zeros((9, 9), np.uint8), (2**30, 2**30)), "memory"),
    "Arrow's memory": (lambda _: pa.allocate_buffer(10**17), "memory"),
    "a full disk": (lambda _: Path(FULL).write_text("x"), "disk"),
    "NumPy on a full disk": (lambda _: np.zeros(10**5).tofile(FULL), "disk"),
    "torch on a full disk": (lambda _: torch.save(torch.zeros(10**5), FULL), "disk"),
    "files": (lambda _: _many_files(), "open files"),
    "a limit of the shell": (_grown, "file size"),
    "a name": (lambda _: socket.getaddrinfo("nowhere.invalid", 80), "name"),
}


@pytest.mark.parametrize("what", REAL)
def test_the_cause_of_a_real_error_is_known_as_it_is_and_as_text(what: str, tmp_path: Path) -> None:
    ends, kind = REAL[what]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has a class of its own
        ends(tmp_path)
    text = "".join(traceback.format_exception(caught.value))
    for problem in (caught.value, text):
        found = cause_of(problem)
        assert found is not None
        assert found.kind == kind
        assert "{" not in str(found)
    assert is_out_of_memory(caught.value) is (kind == "memory")


def test_a_full_disk_is_told_with_the_folder_that_has_the_least_space(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"/t": 3 * 10**6, "/c": 2 * 10**6, "/": 10**12}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**12, 0, free[str(place)]))
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    for name, place in {"TMPDIR": "/t", "RAY_TMPDIR": "/t", "SEGDIST_CACHE": "/c"}.items():
        monkeypatch.setenv(name, place)
    text = "OSError: [Errno 28] No space left on device"
    found = cause_of(OSError(text))
    assert found is not None
    assert found.what == "The disk is full on this machine: 2 MB are free in /c (SEGDIST_CACHE)."
    assert found.is_here
    elsewhere = cause_of(f"ray::f() (ip=10.0.0.7)\n{text}")
    assert elsewhere is not None
    assert elsewhere.what == "The disk is full on the node 10.0.0.7."
    assert not elsewhere.is_here
    free["/c"] = free["/t"] = 10**12
    assert str(cause_of(OSError(text))).startswith("The disk is full on this machine. Free some space")


KILLED_FOR_MEMORY = """ray.exceptions.OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. \
Memory on the node (IP: 10.0.0.7, ID: 2a4db21e44b32) was 4.32GB used / 23.54GB limit (0.183506)
OOM kill reason: Memory usage 4564283392B exceeded threshold of 4549690880B (18.0% of 25276059648B limit)
Top 10 memory users: PID	MEM(GB)	COMMAND
12314	1.47	ray::A.eat
12315	0.47	watch 'No space left on device'
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/."""
DIED = """ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
	class_name: ImplicitFunc
	pid: 12417
	ip: 10.0.0.9
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly \
due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM killer, consider enabling \
resource isolation to prevent node deaths by resource contention."""
NODE_ACTOR = """ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
	ip: 192.0.2.2
The actor died because its node has died. Node Id: 363db48e3b5e6395a
	the actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"""
NODE_TASK = """ray.exceptions.NodeDiedError: Task failed because the node it was running on is dead or unavailable. \
Node IP: 192.0.2.2, node ID: 363db48e3b5e. This can happen if the node was preempted, or its raylet crashed."""
UNAVAILABLE = """ray.exceptions.ActorUnavailableError: The actor 6707 is unavailable: The actor is temporarily \
unavailable: RpcError: RPC error: Socket closed rpc_code: 14. The task may or may not have been executed."""
ENDPOINT = 'botocore.exceptions.EndpointConnectionError: Could not connect to the endpoint URL: "http://127.0.0.1:9/b"'
REFUSED = "botocore.exceptions.ClientError: An error occurred ({}) when calling the PutObject operation: {}"
MLFLOW = (
    "mlflow.exceptions.MlflowException: API request to http://127.0.0.1:5000/api/2.0/mlflow/runs/search failed with "
    "exception HTTPConnectionPool(host='127.0.0.1', port=5000): Max retries exceeded"
)
TOLD = {
    KILLED_FOR_MEMORY: (
        "killed for memory",
        "killed because the node 10.0.0.7 ran out of memory. Let less run at once",
    ),
    DIED: ("process", "A process died on the node 10.0.0.9. Somebody killed it"),
    NODE_ACTOR: ("node", "A node of the cluster is gone: the node 192.0.2.2."),
    NODE_TASK: ("node", "the node 192.0.2.2"),
    UNAVAILABLE: ("process", "A process died on a node."),
    "ray.exceptions.WorkerCrashedError: The worker died unexpectedly while executing this task.": ("process", "a node"),
    "ray.exceptions.OutOfDiskError: Local disk is full\nThe object cannot be created": ("disk", "Free some space"),
    "ray.exceptions.ObjectStoreFullError: Failed to put object 0 in object store because it is full.\nThe local object "
    "store is full of objects that are still in scope": ("object store", "--object-store-memory"),
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.": ("card memory", "Lower `train.batch_"),
    "torch.AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be": ("card memory", "The card's"),
    "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": ("card memory", "card"),
    "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
    "are out of shared memory.": ("shared memory", "--shm-size"),
    "OSError: [Errno 28] No space left on device: '/dev/shm/x'": ("shared memory", "/dev/shm"),
    "RuntimeError: unable to write to file </torch_7_1>: No space left on device (28)": ("shared memory", "/dev/shm"),
    "RuntimeError: unable to open shared memory object </torch_7> in read-write mode: Too many open files (24)": (
        "open files",
        "ulimit -n",
    ),
    "OSError: [Errno 122] Disk quota exceeded": ("disk", "quota"),
    "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full": ("disk", "Free some space"),
    "safetensors.SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)": (
        "disk",
        "Free some space",
    ),
    "RuntimeError: can't start new thread": ("processes", "ulimit -u"),
    "BlockingIOError: [Errno 11] Resource temporarily unavailable": ("processes", "ulimit -u"),
    "OSError: [Errno 30] Read-only file system: '/x'": ("read only", "mounted read-only"),
    "sqlite3.OperationalError: attempt to write a readonly database": ("read only", "mounted read-only"),
    "OSError: [Errno 116] Stale file handle: '/x'": ("broken disk", "Stale file handle"),
    "sqlite3.OperationalError: database is locked": ("database", "tracking.uri"),
    ENDPOINT: ("storage away", "Check AWS_ENDPOINT_URL"),
    REFUSED.format("SlowDown", "Please reduce your request rate."): ("storage away", "does not answer"),
    "OSError: When reading information for key 'x': AWS Error NETWORK_CONNECTION during HeadObject": (
        "storage away",
        "does not answer",
    ),
    "botocore.exceptions.NoCredentialsError: Unable to locate credentials": ("credentials", "Set AWS_PROFILE"),
    REFUSED.format("ExpiredToken", "The provided token has expired."): ("credentials", "expired"),
    REFUSED.format("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist"): ("credentials", "wrong"),
    REFUSED.format("403", "Forbidden"): ("credentials", "not allowed"),
    "PermissionError: Access Denied": ("credentials", "not allowed"),
    REFUSED.format("RequestTimeTooSkewed", "The difference ..."): ("clock", "timedatectl"),
    "FileNotFoundError: The specified bucket does not exist": ("bucket", "Check its name"),
    MLFLOW: ("tracking away", "The MLflow server does not answer"),
    "mlflow.exceptions.MlflowException: API request to endpoint /api/2.0/x failed with error code 401 != 200": (
        "tracking credentials",
        "MLFLOW_TRACKING_USERNAME",
    ),
}


@pytest.mark.parametrize("text", TOLD)
def test_what_ray_and_services_write_is_told_in_one_line_with_the_node_and_the_fix(text: str) -> None:
    found = cause_of(text)
    kind, said = TOLD[text]
    assert found is not None
    assert found.kind == kind
    assert said in why(text) == str(found)
    assert "\n" not in str(found)


NOT_IN_CODE = """Traceback (most recent call last):
  File "x.py", line 3, in f
    raise Mistake("MemoryError: No space left on device")
"""


@pytest.mark.parametrize("before", ["", NOT_IN_CODE])
def test_what_nothing_is_known_of_is_told_by_its_last_line_and_code_is_no_cause(before: str) -> None:
    assert cause_of(f"{before}ValueError: 7 is no size") is None
    assert why(f"{before}ValueError: 7 is no size") == "ValueError: 7 is no size"
    assert why("") == "no error was recorded"


def test_an_error_of_our_own_says_itself_what_to_do() -> None:
    remote = f"ray.exceptions.RayTaskError(StorageError): ray::f() (ip=10.0.0.7)\n{DIED}"
    assert why(f"{remote}\nsegdist.core.errors.StorageError: a b.") == "a b."


def test_what_led_to_an_error_counts_unless_it_was_set_aside() -> None:
    def chained(*, aside: bool) -> Exception:
        try:
            try:
                raise MemoryError
            except MemoryError as error:
                raise StorageError("cannot be read") from (None if aside else error)
        except StorageError as error:
            return error

    assert is_out_of_memory(chained(aside=False))
    assert cause_of(chained(aside=True)) is None


def test_a_loop_of_causes_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert cause_of(first) is None
    assert str(Cause("disk", "A.", "B.", is_here=True)) == "A. B."
