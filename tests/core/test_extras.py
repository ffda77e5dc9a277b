"""What is missing is installed by the extra that brings it, and no other."""

import importlib
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import segdist
from segdist.core import extras, registry
from segdist.core.errors import SpecError

ROOT = Path(segdist.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required(texts: list[str]) -> set[str]:
    return {str(canonicalize_name(Requirement(text).name)) for text in texts}


def test_every_module_that_an_extra_brings_is_installed_by_that_extra() -> None:
    of_module = metadata.packages_distributions()
    core = required(PROJECT["dependencies"])
    checked = set()
    for extra, texts in PROJECT["optional-dependencies"].items():
        for module in extras._EXTRA_OF if extra != "all" else ():
            brought = {str(canonicalize_name(name)) for name in of_module.get(module, [])} & (required(texts) - core)
            if brought:
                assert extras.install(f"{module}.part") == f"pip install 'segdist[{extra}]'"
                checked |= brought
    everything = Requirement(PROJECT["optional-dependencies"]["all"][0]).extras
    of_extra = PROJECT["optional-dependencies"].items()
    installed = {n for e, texts in of_extra if e in {*everything, "testing"} for n in required(texts)}
    assert checked - {"wandb"} == installed - core - {"ray"}, "but for what `all` is too small for"


def test_several_modules_are_installed_at_once() -> None:
    assert extras.install("peft", "bitsandbytes") == "pip install 'segdist[lora,qlora]'"
    assert extras.install("numpy") == "pip install --upgrade segdist"


@pytest.mark.parametrize(
    ("library", "extra"), [("segment_anything", "sam"), ("transformers", "hf"), ("ultralytics", "yolo")]
)
def test_a_family_asks_for_its_own_extra(library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError(name=library)

    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", missing)
        with pytest.raises(SpecError) as caught:
            registry._import("anything", what="model family")
    assert f"needs the library `{library}`. Install it: pip install 'segdist[{extra}]'" in str(caught.value)


def test_no_other_place_knows_an_extra_and_none_advises_all_of_them() -> None:
    texts = {str(file.relative_to(ROOT)): file.read_text() for file in (ROOT / "segdist").rglob("*.py")}
    said = {name for name, text in texts.items() if "segdist[" in text}
    assert said == {
        "segdist/core/extras.py",
        "segdist/tracking/pyfunc.py",  # what a saved model requires
        "segdist/sweepfile/catalogue.py",
    }  # the second by the family's own declaration
    assert not any("segdist[all]" in text for text in texts.values())


def test_every_core_dependency_is_imported_by_the_package() -> None:
    text = "\n".join(file.read_text() for file in (ROOT / "segdist").rglob("*.py"))
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.M)) | set(
        re.findall(r'import_module\("(\w+)', text)
    )
    of_module = metadata.packages_distributions()
    used = {str(canonicalize_name(name)) for module in imported for name in of_module.get(module, [])}
    assert required(PROJECT["dependencies"]) - used == set()
