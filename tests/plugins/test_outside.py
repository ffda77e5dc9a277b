"""A model family, a format and a prompt strategy of another distribution work as ours do, once it is installed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segdist

OUTSIDE = Path(__file__).with_name("outside")
SEGDIST = Path(segdist.__file__).parents[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the distribution, with data for its sweep."""
    project = tmp_path_factory.mktemp("outside") / "project"
    shutil.copytree(OUTSIDE, project, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "photos").mkdir()
    for number in range(4):
        Image.fromarray(np.full((24, 32, 3), 60 * number, np.uint8)).save(project / "photos" / f"{number}.png")
        (project / "photos" / f"{number}.corners").write_text("roof 3 4 20 15\n")
    return project


@pytest.fixture(scope="module")
def installed(project: Path) -> Mapping[str, str]:
    """The environment of a process in which the distribution is installed."""
    site = project.parent / "site"
    how = ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", *how, "--target", str(site), str(project)], check=True
    )
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SEGDIST, site))), "COLUMNS": "200"}


def segdist_says(project: Path, environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "segdist.cli", *arguments],
        cwd=project, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def its_own_tests(project: Path, environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments],
        cwd=project, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_family_is_listed_with_the_distribution_that_brings_it(project: Path, installed: Mapping[str, str]) -> None:
    listed = {entry["family"]: entry for entry in json.loads(segdist_says(project, installed, "models", "--json"))}
    assert listed["tiny"]["distribution"] == "segdist-outside"
    assert listed["tiny"]["install"] == "pip install segdist-outside"
    assert listed["sam"]["distribution"] == "segdist"


def test_a_sweep_with_its_family_format_and_strategy_is_accepted(project: Path, installed: Mapping[str, str]) -> None:
    said = segdist_says(project, installed, "check", "sweep.yaml")
    assert "classical by shrunken_box" in said
    assert "NOT HERE" not in said


def test_without_it_the_sweep_is_refused_by_name(project: Path) -> None:
    alone = {**os.environ, "PYTHONPATH": str(SEGDIST)}
    command = [sys.executable, "-m", "segdist.cli", "check", "sweep.yaml"]
    done = subprocess.run(command, cwd=project, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "There is no model family `tiny`" in done.stderr
    assert "There is no dataset format `corners`" in done.stderr


@pytest.mark.parametrize("named", [("--format", "corners"), ()])
def test_its_format_reads_named_or_recognised(
    named: tuple[str, ...], project: Path, installed: Mapping[str, str]
) -> None:
    said = segdist_says(project, installed, "data", "validate", "photos", *named)
    assert "corners" in said
    assert "4 images" in said


def test_it_keeps_the_contracts(project: Path, installed: Mapping[str, str]) -> None:
    assert "passed" in its_own_tests(project, installed, "-k", "not learned and not data_parallel")


@pytest.mark.slow
def test_its_family_learns(project: Path, installed: Mapping[str, str]) -> None:
    its_own_tests(project, installed, "-m", "slow or not slow", "-k", "TestTiny")
