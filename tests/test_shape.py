"""What CONTRIBUTING says of the rooms of the code is what import-linter checks and what is there."""

import ast
import re
import tomllib
from pathlib import Path

TEXT = Path("CONTRIBUTING.md").read_text("utf-8")
ROOMS = sorted(file.parent.name for file in Path("segdist").glob("*/__init__.py"))


def layers() -> list[set[str]]:
    contracts = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    contract = next(contract for contract in contracts if contract["name"] == "layers")
    assert contract["containers"] == ["segdist"]
    assert contract["exhaustive"]
    return [set(layer.split(" | ")) for layer in contract["layers"]]


def test_the_diagram_shows_the_layers_that_are_checked() -> None:
    shown = re.findall(r"```text\n(cli .*?)```", TEXT, re.DOTALL)
    assert len(shown) == 1
    assert [set(layer.split(" | ")) for layer in " ".join(shown[0].split()).split(" -> ")] == layers()


def test_every_room_is_a_layer_and_nothing_lies_beside_the_rooms() -> None:
    assert sorted(room for layer in layers() for room in layer) == ROOMS
    assert [file.name for file in Path("segdist").glob("*.py")] == ["__init__.py"]


def test_a_room_is_described_by_its_own_docstring() -> None:
    shown = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", TEXT, re.MULTILINE))
    assert sorted(shown) == ROOMS
    for room, text in shown.items():
        said = ast.get_docstring(ast.parse(Path("segdist", room, "__init__.py").read_text("utf-8"))) or ""
        assert text == " ".join(said.partition("\n\n")[0].split()), room


def test_tests_have_the_rooms_of_what_they_test() -> None:
    folders = {folder.name for folder in Path("tests").iterdir() if (folder / "__init__.py").exists()}
    assert folders - set(ROOMS) == {"cluster", "dirty", "fuzz", "gpu", "plugins"}


UNSEEN = ("Any", "JsonObject", "JsonDict")
"""What mypy does not look into."""
MOST_UNSEEN = {
    "": 1,
    "adapters": 1,
    "augment": 2,
    "checking": 3,
    "cli": 4,
    "commands": 20,
    "converting": 6,
    "core": 40,
    "datasets": 8,
    "engine": 12,
    "formats": 23,
    "labelling": 12,
    "metrics": 10,
    "models": 7,
    "nets": 11,  # what timm makes, what networks take and give
    "pages": 40,  # the rows of a plan, JSON of our own
    "pipeline": 30,
    "reading": 41,
    "searching": 9,
    "serving": 3,
    "sweepfile": 17,
    "tracking": 16,  # JSON files of runs and models, answers of a server, rows of tables
}
"""Names of it in each room, imports aside: a room that is not named has none."""


def test_in_no_room_grows_what_mypy_does_not_look_into() -> None:
    found = dict.fromkeys(MOST_UNSEEN, 0)
    for file in Path("segdist").rglob("*.py"):
        names = (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Name))
        room = file.relative_to("segdist").parts[0] if file.parent != Path("segdist") else ""
        found[room] = found.get(room, 0) + sum(name.id in UNSEEN for name in names)
    assert sum(found.values()) > 0
    grown = {room: count for room, count in found.items() if count > MOST_UNSEEN.get(room, 0)}
    assert not grown, "name the type, or take an `object`; where that cannot be, raise the number and say why"
