"""`segdist data validate`: its JSON has one shape whatever the data, its exit code says whether there is an error."""

import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from segdist.checking.validation import review
from segdist.cli.data import app
from segdist.core import registry, storage
from segdist.formats.coco import Format, Options
from segdist.reading.codes import CODES
from tests.dirty.cases import CASES, Case
from tests.dirty.export import ANNOTATIONS, Export
from tests.formats.test_contract import EXAMPLES

KEYS = {"format", "images", "instances", "errors", "repaired", "skipped", "warnings"}
ENTRY = {"code", "file", "image", "annotation", "message"}
CHOSEN = ("nothing", "an infinite coordinate", "below one pixel", "a JSON file cut off", "an empty file", "UTF-16")


def validated(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command; its output must be JSON and nothing else."""
    result = CliRunner().invoke(app, ["validate", *arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    content: dict[str, Any] = json.loads(result.stdout)
    assert set(content) == KEYS
    for entry in (e for key in ("errors", "repaired", "skipped", "warnings") for e in content[key]):
        assert set(entry) == ENTRY
        assert entry["code"] in CODES
    return result.exit_code, content


@pytest.mark.parametrize("case", [c for c in CASES if c.name in CHOSEN], ids=lambda case: case.name)
def test_the_exit_code_is_2_where_there_is_an_error_and_0_otherwise(tmp_path: Path, case: Case) -> None:
    export = Export()
    case.change(export)
    code, content = validated(str(export.write(tmp_path)), "--format", "coco")
    is_wrong = any(text.startswith("error") for text in case.found)
    assert code == (2 if is_wrong else 0)
    assert bool(content["errors"]) == is_wrong
    assert content["format"] == "coco"


def test_strict_turns_warnings_into_errors(tmp_path: Path) -> None:
    export = Export()
    export.first.update(segmentation=[])
    place = str(export.write(tmp_path))
    assert validated(place)[0] == 0
    code, content = validated(place, "--strict")
    assert code == 2
    assert [e["code"] for e in content["errors"]] == ["mask-missing"]
    assert content["warnings"] == []


def test_what_cannot_even_be_opened_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.zip").write_bytes(b"no archive")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    for place in ("nowhere", "empty", "a.zip", "notes"):
        code, content = validated(str(tmp_path / place))
        assert code == 2
        assert [e["code"] for e in content["errors"]] == ["source-unreadable"], place


def test_an_export_in_a_bucket_is_checked_like_one_on_this_machine(tmp_path: Path, s3_bucket: str) -> None:
    export = Export()
    export.first.update(segmentation=[[1, 2, 3, 4]])
    folder = export.write(tmp_path)
    place = f"{s3_bucket}/{tmp_path.name}"
    for file in (f for f in folder.rglob("*") if f.is_file()):
        storage.upload(file, f"{place}/{file.relative_to(folder).as_posix()}")
    code, content = validated(place)
    assert (code, content["images"], content["instances"]) == (0, 5, 9)
    assert [(e["code"], e["annotation"]) for e in content["skipped"]] == [("polygon-too-short", "0")]
    assert content["skipped"][0]["file"].startswith(place)


def test_an_archive_whose_member_would_escape_is_one_error_and_writes_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("../evil.json", "{}")
    code, content = validated(str(tmp_path / "a.zip"))
    assert (code, [e["code"] for e in content["errors"]]) == (2, ["source-unreadable"])
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", [n for n in registry.names("formats") if n != "synthetic"])
@pytest.mark.parametrize("damage", ["text cut", "images cut", "images swapped"])
def test_a_damaged_source_of_any_format_is_a_list_of_errors_and_no_traceback(
    tmp_path: Path, name: str, damage: str
) -> None:
    options = EXAMPLES[name](tmp_path)
    folder = Path(options.pop("path"))
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        is_image = file.suffix in (".png", ".jpg")
        content = file.read_bytes()
        if damage == "text cut" and not is_image:
            file.write_bytes(content[: len(content) * 2 // 3])
        elif damage == "images cut" and is_image:
            file.write_bytes(content[: len(content) // 2])
        elif damage == "images swapped" and is_image:
            file.write_bytes(b"GIF89a")
    given_options = [arg for key, value in options.items() for arg in ("--option", f"{key}={json.dumps(value)}")]
    code, content_ = validated(str(folder), "--format", name, *given_options)
    assert code == (2 if content_["errors"] else 0)
    tables = {"hf_objects", "segdist"}
    if damage == "text cut":
        assert content_["errors"] or name in ("images", "png_masks", "yolo"), "YOLO cut short may still be YOLO"
    else:
        assert bool(content_["errors"]) == (name not in tables)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "size", "counts", "id"]), inner),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for key, one in inner for p in _places(one, (*path, key))]


_CLEAN = Export().train
_PLACES = _places(_CLEAN)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(_PLACES), _values), min_size=1, max_size=3))
def test_whatever_stands_in_a_file_the_review_ends(tmp_path: Path, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    content = deepcopy(_CLEAN)
    for (*way, last), value in changes:
        at: Any = content
        try:
            for key in way:
                at = at[key]
            at[last] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    (tmp_path / ANNOTATIONS).write_text(json.dumps(content))
    found = review(Format(Options(path=str(tmp_path / ANNOTATIONS), find_images=False)), "coco", open_images=False)
    assert found.instances <= 6
