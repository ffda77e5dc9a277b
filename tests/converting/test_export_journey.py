"""The three exports beside the project from the command line: validated, merged, split, converted, read back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from segdist.cli.data import app
from segdist.core import storage

SHARED = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = ("buildings", "facades", "potholes")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(5400),  # minutes on idle cores, and an S3 server in the same process
    pytest.mark.skipif(not SHARED.exists(), reason="the exports lie beside the project only on its authors' machines"),
]


@pytest.fixture(params=["local", "s3"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where the exports lie, and where results go: on this machine, or in a bucket of a server on loopback."""
    if request.param == "local":
        yield str(SHARED), str(tmp_path / "out")
        return
    bucket = request.getfixturevalue("s3_bucket")
    for folder in FOLDERS:
        for file in sorted(f for f in (SHARED / folder).rglob("*") if f.is_file()):
            storage.upload(file, f"{bucket}/exports/{file.relative_to(SHARED).as_posix()}")
    yield f"{bucket}/exports", f"{bucket}/out"


def run(*arguments: str) -> dict[str, Any]:
    """The JSON that a command prints; it must succeed."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_from_the_command_line_the_exports_become_one_data_set_in_every_format(
    places: tuple[str, str], tmp_path: Path
) -> None:
    source, out = places
    counted = {name: run("validate", f"{source}/{name}", "--format", "coco") for name in FOLDERS}
    images = {name: content["images"] for name, content in counted.items()}
    assert images == {"buildings": 158, "facades": 308, "potholes": 90}
    assert not any(content["errors"] for content in counted.values())

    spec = {
        "sources": [
            {
                "format": "coco",
                "path": f"{source}/facades",
                "class_map": {"window": "opening", "balcony-fence": "fence", "car": None},
            },
            {"format": "coco", "path": f"{source}/buildings", "text": "roofs seen from above"},
            {"format": "coco", "path": f"{source}/potholes", "class_map": {"pothole": "damage"}},
        ],
        "split": {"given": "keep"},
    }
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(spec))
    merged = run("merge", str(tmp_path / "merge.yaml"), "-o", f"{out}/merged")
    assert {"opening", "fence", "building", "damage"} <= set(merged["classes"])
    assert not {"window", "balcony-fence", "car", "pothole"} & set(merged["classes"])
    assert merged["licences"] == ["CC BY 4.0", "MIT"]
    divided = run("split", f"{out}/merged", "-o", f"{out}/divided", "--seed", "7")
    assert divided["licences"] == merged["licences"]
    assert set(divided["splits"]) == {"train", "val", "test"}
    again = run("split", f"{out}/merged", "-o", f"{out}/again", "--seed", "7")
    assert again["content_hash"] == divided["content_hash"]

    total = sum(c["instances"] for c in divided["splits"].values())
    masks = sum(c["masks"] for c in divided["splits"].values())
    for to in ("coco", "hf_objects", "png_masks", "yolo", "segdist", "paligemma"):
        result = run("convert", f"{out}/divided", "--to", to, "-o", f"{out}/{to}")
        trip = result["round_trip"]
        assert (trip["instances"], trip["masks"]) == (total, masks), to
        assert trip["images_back"] == trip["images"], to
        if to == "paligemma":
            assert result["losses"], "boxes rounded to 1,024 steps and masks must be named as lost"
            continue
        assert trip["masks_exact"] == masks, to
        assert trip["instances_back"] + sum(_dropped(result)) == total, to
        if to != "yolo":
            assert trip["exact"], (to, trip)
        back = run("validate", f"{out}/{to}", "--format", to)
        assert (back["images"], back["errors"]) == (trip["images"], []), to


def _dropped(result: dict[str, Any]) -> list[int]:
    """Instances that the format left out, each of which it named."""
    return [entry["count"] for entry in result["losses"] if entry["severity"] == "skipped"]
