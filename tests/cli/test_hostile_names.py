"""Class and file names from outside are text: for terminals, for pages, for JSON."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segdist.cli import app

NAMES = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "[/]",
    "[red]x[/red]",
    "title\x1b]0;owned\x07",
    "reversed\u202e\u2066",
    "c1\x9b31m",
    "'\"&{{7*7}}",
    "L" * 3_000,
)
SIDE = 64


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    noise = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in enumerate(("a\x1b[2J.png", "<b>b.png", "[c].png")):
        Image.fromarray(noise.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for k in range(len(NAMES)):
            x, y = 5 + 4 * k, 5
            mask = [[x, y, x + 10, y, x + 10, y + 20, x, y + 20]]
            entry = {"bbox": [x, y, 10, 20], "area": 200, "iscrowd": 0, "segmentation": mask}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": k + 1, **entry})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    results = [{**one, "score": 0.9} for one in annotations]
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code in (0, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    for line in done.output.split("\n"):
        assert line.replace("\t", "").isprintable(), repr(line[:300])
    return done.output


def test_commands_print_them_escaped_and_pages_show_them_as_text(export: Path, tmp_path: Path) -> None:
    said = run("data", "validate", export, "--format", "coco", "--html", tmp_path / "v.html")
    assert "27 instances, 9 classes" in said
    said = run("data", "stats", export, "--format", "coco", "--html", tmp_path / "s.html")
    assert "title\\x1b]0;owned" in said
    assert "[red]x[/red]" in said
    assert "of 3,000 characters" in said
    run("data", "view", export, "--format", "coco", "-o", tmp_path / "g.html")
    pages = [(tmp_path / name).read_text("utf-8") for name in ("v.html", "s.html", "g.html")]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "<b>b.png" not in page
        assert "49" not in re.findall(r"'&#34;&amp;(\d+)", page)
    assert "&lt;script&gt;alert(1)" in pages[2]


def test_json_for_machines_is_exact(export: Path) -> None:
    found = json.loads(run("data", "stats", export, "--format", "coco", "--json"))
    assert set(NAMES) <= set(re.findall(r".+", "\n".join(_strings(found)), re.DOTALL)[0].split("\n"))


def test_an_evaluation_prints_them(export: Path) -> None:
    said = run("evaluate", "--predictions", export / "results.json", "--truth", export / "_annotations.coco.json")
    assert "[red]x[/red]" in said
    assert "1.000" in said


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (str(key), *_strings(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in _strings(inner)]
    return [value] if isinstance(value, str) else []
