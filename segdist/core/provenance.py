"""What a result depends on beside its sweep file: the commit of the code, and the versions of the libraries."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segdist.core.redaction import redact

_LIBRARIES = (
    "segdist", "torch", "torchvision", "transformers", "peft", "segment-anything", "ray", "mlflow", "optuna",
    "numpy", "pyarrow", "pycocotools", "opencv-python-headless", "pillow", "pydantic", "hydra-core",
)  # fmt: skip

TYPED = "SEGDIST_TYPED"
"""The variable with what a user typed on another machine or in another program to have this process started."""
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The variable that Ray sets in what a job runs."""


@dataclass(frozen=True)
class Environment:
    """Where a sweep ran.

    Attributes:
        python: version of the interpreter.
        platform: operating system and machine type.
        cpus: number of CPUs of the driver's machine.
        packages: installed versions of the libraries that decide results.
        git_commit: commit of the repository that holds the sweep file; "" outside a repository.
        git_dirty: whether tracked files differed from that commit.
        git_branch: that was checked out; "" for none.
    """

    python: str
    platform: str
    cpus: int
    packages: dict[str, str]
    git_commit: str
    git_dirty: bool
    git_branch: str = ""

    def as_dict(self) -> dict[str, object]:
        """The same as plain JSON values."""
        return asdict(self)


def environment(folder: Path, *, plugins: Sequence[str] = ()) -> Environment:
    """The environment of this process, and the commit of the repository that `folder` lies in.

    Args:
        folder: of the sweep file.
        plugins: distributions whose versions are kept too.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpus=os.cpu_count() or 1,
        packages={name: found for name in (*_LIBRARIES, *plugins) if (found := _version(name))},
        git_commit=commit,
        git_dirty=bool(commit and _git(folder, "status", "--porcelain", "--untracked-files=no")),
        git_branch=_git(folder, "branch", "--show-current"),
    )


def installed(plugins: Sequence[str] = ()) -> dict[str, str]:
    """What processes that work together must have alike, with its version; "" where it is not installed.

    Args:
        plugins: distributions that must be alike, too.
    """
    packages = {name: _version(name) for name in ("segdist", "ray", "torch", "mlflow", *plugins)}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **packages, "code of segdist": _code()}


def _code() -> str:
    """Eight hex digits of the installed source: two checkouts of one version may differ."""
    root = Path(__file__).parent.parent
    found = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        found.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()[:8]


def command_line(words: Sequence[str] = ()) -> str:
    """What to type to have a command done again, without secrets: in a cluster's job that is what submitted the job.

    Args:
        words: of the command; those of this process, without the folder of the program, where there are none.
    """
    program = Path(sys.argv[0])
    started = ["python", "-m", f"segdist.{program.parent.name}"] if program.name == "__main__.py" else [program.name]
    line = shlex.join(words or [*started, *sys.argv[1:]])
    if _JOB in os.environ:
        line = f"ray job submit --working-dir . -- {line}"
    return redact(os.environ.get(TYPED) or line)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a repository too slow to ask
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
