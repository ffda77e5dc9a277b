"""The contract of plug-ins is one that mypy sees: all of ours keep it, and what breaks it does not pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from segdist.core import registry
from segdist.core.plugins import WritableFormat

IMPORTS = """\
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from segdist.core import plugins
from segdist.core.plugins import Answers, Batch, Example, ImageHWC, ModelOptions, Question
from segdist.core.records import Instance, Prompt, ReportFinding, Sample
from segdist.core.spec import Strict
from segdist.nets.segmenter import Segmenter, Traceable
"""
FAMILY = """
class Options(ModelOptions):
    width: int = 8

class Net(Segmenter):
    options: Options

    def collate(self, examples: Sequence[Example]) -> Batch:
        return {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        return []

    def take_counts(self) -> dict[str, float]:
        return {}

def check(options: Options) -> None:
    print(options.width)

def build(options: Options, classes: tuple[str, ...]) -> Net:
    return Net(options, classes)

FAMILY = plugins.Family(
    options=Options, debug={}, losses={}, encoder=(), lora_targets=(), lora_trains=(), check=check, tasks=("semantic",)
)
"""
FORMAT = """
class Options(Strict):
    path: str

class Format(plugins.DatasetFormat[Options]):
    def signature(self) -> str:
        return self.options.path

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        return iter(())

    def image_bytes(self, sample: Sample) -> bytes:
        return b""

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    def licences(self) -> tuple[str, ...]:
        return ()

class Writer(plugins.DatasetWriter):
    class Options(Strict):
        pass

    def __init__(self, folder: Path, classes: Sequence[str], options: Options, report: ReportFinding) -> None: ...

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None: ...

    def close(self) -> None: ...

    def state_licences(self, names: Sequence[str]) -> None: ...

reader = Format(Options(path=""))
writer = Writer(Path(), (), Writer.Options(), lambda _: None)
"""
STRATEGY = """
NEEDS = "box"

class Options(Strict):
    pass

def prompts(question: Question, options: Options, seed: int) -> list[Prompt]:
    return []

def chosen(question: Question, answers: Answers, options: Options) -> list[Sequence[Instance]]:
    return []
"""
GOOD = {"family": FAMILY, "format": FORMAT, "strategy": STRATEGY}
BAD = [
    ("family", "def predict(", "def prediction(", 'abstract class "Net" with abstract attribute "predict"'),
    ("family", "examples: Sequence[Example]", "examples: list[Example]", '"collate" is incompatible with supertype'),
    ("family", ") -> dict[str, float]:", ") -> list[str]:", '"take_counts" incompatible with return type'),
    ("family", "def check(options: Options)", "def check(options: int)", "Argument \"check\" to \"Family\""),
    ("family", "class Net(Segmenter)", "class Net(Traceable)", 'abstract class "Net" with abstract attributes'),
    ("family", '("semantic",)', '("panoptic",)', 'Argument "tasks" to "Family"'),
    ("family", "options.width", "options.height", 'has no attribute "height"'),
    ("format", "def signature(", "def digest(", 'abstract class "Format" with abstract attribute "signature"'),
    ("format", "-> Iterator[Sample]", "-> Iterator[str]", '"read" incompatible with return type'),
    ("format", "    @property\n", "", '"classes" .*supertype'),
    ("format", "def licences(self) -> tuple[str, ...]", "def licences(self) -> int", '"licences" .*supertype'),
    ("format", "def close(", "def finish(", 'abstract class "Writer" with abstract attribute "close"'),
    ("format", "self.options.path", "self.options.place", 'has no attribute "place"'),
    ("strategy", 'NEEDS = "box"', "", 'missing following "PromptStrategy" protocol member'),
    ("strategy", "options: Options, seed: int", "options: Options", "prompts"),
    ("strategy", "-> list[Sequence[Instance]]", "-> int", "chosen"),
]  # fmt: skip


def checked_as(name: str, kind: str) -> str:
    """What somebody who uses a plug-in takes it for."""
    if kind == "family":
        return f"import {name}\n_a: Callable[[{name}.Options, tuple[str, ...]], Segmenter] = {name}.build\n"
    if kind == "format":
        return (
            f"import {name}\n_a: plugins.FormatModule[{name}.Options] = {name}\n_b: plugins.WritableFormat = {name}\n"
        )
    return (f"import {name}\n_a: plugins.PromptStrategy[{name}.Options] = {name}\n"
            f"_b: plugins.ChoosingStrategy[{name}.Options] = {name}\n")  # fmt: skip


def ours() -> str:
    """Every plug-in of the package, taken for what it should be."""
    lines = [IMPORTS]
    for n, name in enumerate(registry.names("models")):
        lines.append(f"from segdist.models import {name} as m{n}\nfrom segdist.models.{name} import network as n{n}")
        lines.append(f"_m{n}: plugins.Family = m{n}.FAMILY")
        lines.append(f"_n{n}: Callable[[m{n}.Options, tuple[str, ...]], Segmenter] = n{n}.build")
    for n, name in enumerate(registry.names("formats")):
        lines.append(f"from segdist.formats import {name} as f{n}\n_f{n}: plugins.FormatModule[f{n}.Options] = f{n}")
        if isinstance(registry.load("formats", name), WritableFormat):
            lines.append(f"_w{n}: plugins.WritableFormat = f{n}")
    for n, name in enumerate(registry.names("prompts")):
        lines.append(f"from segdist.prompts import {name} as p{n}\n_p{n}: plugins.PromptStrategy[p{n}.Options] = p{n}")
        if hasattr(registry.load("prompts", name), "chosen"):
            lines.append(f"_c{n}: plugins.ChoosingStrategy[p{n}.Options] = p{n}")
    return "\n".join(lines)


@pytest.mark.slow  # mypy reads torch's types
def test_ours_keep_the_contract_and_what_breaks_it_does_not_pass(tmp_path: Path) -> None:
    for kind, text in GOOD.items():
        (tmp_path / f"good_{kind}.py").write_text(IMPORTS + text)
        (tmp_path / f"use_good_{kind}.py").write_text(IMPORTS + checked_as(f"good_{kind}", kind))
    for number, (kind, right, wrong, _) in enumerate(BAD):
        assert right in GOOD[kind]
        (tmp_path / f"bad_{number}.py").write_text(IMPORTS + GOOD[kind].replace(right, wrong))
        (tmp_path / f"use_bad_{number}.py").write_text(IMPORTS + checked_as(f"bad_{number}", kind))
    (tmp_path / "ours.py").write_text(ours())
    command = [sys.executable, "-m", "mypy", "--config-file", str(Path("pyproject.toml").resolve()), "--cache-dir",
               str(Path(".mypy_cache").resolve()), "--no-error-summary", str(tmp_path)]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert not [line for line in said.splitlines() if re.search(r"\b(use_)?good_\w+\.py:|\bours\.py:", line)], said
    for number, (kind, right, wrong, expected) in enumerate(BAD):
        own = [line for line in said.splitlines() if re.search(rf"\b(use_)?bad_{number}\.py:", line)]
        assert any(re.search(expected, line) for line in own), f"{kind}: {right!r} as {wrong!r}\n{own}"
