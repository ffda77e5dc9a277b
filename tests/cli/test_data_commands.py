"""`segdist data convert`, `merge` and `split` as a user types them: results, messages and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from segdist.checking import validation
from segdist.cli.data import app
from tests.dirty.export import Export


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def export(tmp_path: Path) -> Path:
    made = Export()
    for content in made.splits.values():
        content["licenses"] = [{"id": 1, "name": "CC BY 4.0"}]
    return made.write(tmp_path / "export")


def test_convert_says_what_came_back_and_the_same_as_json(export: Path, tmp_path: Path) -> None:
    result = run("convert", export, "--to", "hf_objects", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "coco -> hf_objects: 5 images" in result.output
    assert "read back: exact; 5 of 5 images, 10 of 10 instances, 10 of 10 masks to the pixel" in result.output
    again = run("convert", tmp_path / "out", "--to", "coco", "-o", tmp_path / "back", "--json")
    content: dict[str, Any] = json.loads(again.stdout)
    assert content["format"] == "hf_objects"
    assert content["round_trip"]["exact"]
    assert content["splits"] == {"train": 3, "val": 1, "test": 1}
    licences = json.loads((tmp_path / "back" / "train" / "_annotations.coco.json").read_text())["licenses"]
    assert [one["name"] for one in licences] == ["CC BY 4.0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "cocoo"), "Did you mean `coco`"),
        (("--to", "voc"), "can be read but not written"),
        (("--to", "coco", "--option", "pathh=1"), "Did you mean `path`"),
        (("--to", "coco", "--option", "novalue"), "KEY=VALUE"),
        (("--to", "yolo", "--write", "task=fly"), "option `task` for writing yolo"),
        (("--to", "coco", "--format", "yolo"), "names no classes"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    export: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("convert", export, *arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_errors_in_the_data_stop_a_conversion_unless_they_are_to_be_skipped(tmp_path: Path) -> None:
    made = Export()
    made.first["segmentation"] = [[1, 2, 3, 4, 5]]
    folder = made.write(tmp_path / "export")
    result = run("convert", folder, "--to", "yolo", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "polygon-odd-length" in result.output
    assert "--skip-errors" in result.output
    result = run("convert", folder, "--to", "yolo", "-o", tmp_path / "out", "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "error[polygon-odd-length] x1" in result.output
    assert "9 of 9 masks to the pixel" in result.output
    result = run("convert", folder, "--to", "yolo", "-o", tmp_path / "out", "--skip-errors")
    assert result.exit_code == 2
    assert "must not exist yet" in result.output


def test_merge_and_split_keep_licences_and_the_same_seed_divides_the_same_way(export: Path, tmp_path: Path) -> None:
    spec = {"sources": [{"format": "coco", "path": str(export), "class_map": {"crack": "fissure"}}]}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(spec))
    result = run("merge", tmp_path / "merge.yaml", "-o", tmp_path / "merged", "--json")
    assert result.exit_code == 0, result.output
    merged = json.loads(result.stdout)
    assert (merged["classes"], merged["licences"]) == (["fissure"], ["CC BY 4.0"])
    assert {name: c["images"] for name, c in merged["splits"].items()} == {"train": 3, "val": 1, "test": 1}
    hashes = set()
    for number in range(2):
        arguments = ("--val", "0.2", "--test", "0.2", "--seed", "3", "--json")
        result = run("split", tmp_path / "merged", "-o", tmp_path / f"split{number}", *arguments)
        assert result.exit_code == 0, result.output
        divided = json.loads(result.stdout)
        assert divided["licences"] == ["CC BY 4.0"]
        hashes.add(divided["content_hash"])
    assert len(hashes) == 1
    result = run("merge", tmp_path / "merge.yaml", "-o", tmp_path / "merged")
    assert result.exit_code == 2
    assert "holds a data set already" in result.output


def test_a_kept_split_is_checked_for_leaks_and_its_balance_is_shown(tmp_path: Path) -> None:
    made = Export()
    made.files[made.path(folder="valid")] = made.files[made.path()]
    folder = made.write(tmp_path / "export")
    result = run("split", folder, "-o", tmp_path / "out", "--keep")
    assert result.exit_code == 0, result.output
    assert "image-in-two-splits" in result.output
    assert "crack" in result.output
    assert "train" in result.output


def test_validate_writes_a_page_and_a_manifest_and_lists_every_code(export: Path, tmp_path: Path) -> None:
    result = run("validate", export, "--html", tmp_path / "page.html", "--manifest", tmp_path / "manifest.json")
    assert result.exit_code == 0, result.output
    assert "coco: 5 images, 10 instances, 1 class" in result.output
    assert "<html" in (tmp_path / "page.html").read_text()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["classes"] == ["crack"]
    listed = run("validate", "--codes").output
    assert "polygon-crosses-itself" in listed
    assert run("validate").exit_code == 2


def test_where_nothing_is_read_nobody_is_told_to_leave_it_out(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    (tmp_path / "boxes.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,crack,1,1,5,5\n")
    result = run("validate", tmp_path)
    assert result.exit_code == 2
    first, *_, last = result.output.strip().splitlines()
    assert (first, last) == ("no format: 0 images, 0 instances, 0 classes", "errors: fix them")


def test_of_very_many_findings_the_first_are_listed_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "MOST_LISTED", 7)
    folder = tmp_path / "export"
    folder.mkdir()
    images = [{"id": n, "file_name": f"{n:03}.jpg", "height": 9, "width": 9} for n in range(300)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "crack"}]}
    (folder / "a.json").write_text(json.dumps(content))
    result = run("validate", folder, "--html", tmp_path / "page.html", "--manifest", tmp_path / "manifest.json")
    assert result.exit_code == 2
    assert "error[image-missing] x300:" in result.output
    assert "... and 295 more" in result.output
    assert "annotations-lost" not in result.output, "a missing image without annotations has lost none"
    assert json.loads((tmp_path / "manifest.json").read_text())["findings"] == {"error": {"image-missing": 300}}
    assert "300" in (tmp_path / "page.html").read_text()
    listed = json.loads(run("validate", folder, "--json").output)
    assert [len(listed["errors"]), listed["not_listed"]] == [7, {"image-missing": 293}]
