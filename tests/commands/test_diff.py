"""`segdist diff`: two trials by what they left, or two models on any data; terminal, JSON and page."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from segdist.cli import app
from segdist.engine import checkpoint
from tests.commands.conftest import Evaluated
from tests.pages.test_page import tags


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["diff", *map(str, arguments)])


def test_two_trials_are_compared_by_what_they_left_in_the_terminal_as_json_and_as_a_page(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    page = tmp_path / "deep" / "diff.html"
    done = call("roofs#1", "roofs#2", "--storage", evaluated.storage, "--html", page, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    ious = [evaluated.tracker.read_json(run, "evaluation/val.json")["metrics"]["iou"] for run in evaluated.runs]
    assert [found["first"], found["second"]] == pytest.approx(ious)
    assert found["difference"] == pytest.approx(ious[0] - ious[1])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    assert found["images_total"] == 3 == len(found["images"])
    assert list(found["per_class"]) == ["roof"]
    seen = tags(page)
    assert seen.open == []
    pictures = [attrs["src"] for tag, attrs in seen.seen if tag == "img"]
    assert len(pictures) == found["images_won"] + found["images_lost"]
    assert all(str(src).startswith("data:image/jpeg") for src in pictures)

    again = call("roofs#2", evaluated.runs[0], "--storage", evaluated.storage)
    assert again.exit_code == 0, again.output
    assert "roofs#2 against" in again.stdout
    assert f"{found['images_lost']} images won, {found['images_won']} lost, of 3" in again.stdout


def test_two_models_are_compared_on_data_that_both_are_shown(evaluated: Evaluated, tmp_path: Path) -> None:
    for number in (1, 2):
        network = checkpoint.build(evaluated.sweep.model, ("roof",), seed=number)
        checkpoint.save(network, tmp_path / f"model-{number}", evaluated.sweep.run, ("roof",))
    file = tmp_path / "roofs.yaml"
    file.write_text(
        f"name: roofs\nstorage: {tmp_path}\nmodel: {{family: unet_cbam}}\n"
        "data: {sources: [{format: synthetic, scene: roofs, count: 20, size: 32}]}\n"
    )
    done = call(tmp_path / "model-1", tmp_path / "model-2", file, "--json", "--metric", "boundary_iou")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["notes"] == ["split test"]
    assert found["metric"] == "boundary_iou"
    assert found["images_total"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("roofs#1", "roofs#9"), "has no trial `9`. It has 1, 2, 3"),
        (("roofs#1", "roof#2"), "Did you mean `roofs`?"),
        (("roofs#1", "roofs#2", "--split", "test"), "has no predictions of the split `test`"),
        (("roofs#1", "roofs#2", "--metric", "iouu"), "There is no metric `iouu`. Did you mean `iou`?"),
        (("roofs#1", "."), "is a folder, which keeps no predictions. Name data"),
    ],
)
def test_what_cannot_be_compared_is_said_with_the_fix(
    evaluated: Evaluated, arguments: tuple[str, ...], message: str
) -> None:
    done = call(*arguments, "--storage", evaluated.storage)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
