"""What is in `cluster/`, and the programs that read it."""

import subprocess
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path("cluster").absolute()


def pinned(package: str) -> str:
    """The version in constraints.txt."""
    lines = Path("constraints.txt").read_text("utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def version() -> str:
    """That of segdist."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])


def program(name: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of the `dev` group."""
    command = [str(Path(sysconfig.get_path("scripts")) / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


def content(name: str) -> Any:
    """Of a YAML file."""
    return yaml.safe_load((CLUSTER / name).read_text("utf-8"))
