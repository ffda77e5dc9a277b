"""`segdist evaluate --all-checkpoints` over what one training kept: each model measured, the best picked and drawn."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from segdist.cli import app
from segdist.engine.fit import fit
from tests.commands.test_evaluate import photos
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run

__all__ = ["photos"]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def answer(*arguments: str | Path) -> Any:
    found = call(*arguments, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of every fourth of twelve steps, and the beginning of one that was not finished."""
    drawn, folder = roofs(4), tmp_path_factory.mktemp("kept")
    run = tiny_run(epochs=12, keep_every=4)
    fit(run, CLASSES, train=drawn, val=drawn[:1], report=Reports(), kept=str(folder))
    (folder / "step-0000016").mkdir()
    return folder


def test_every_kept_model_is_measured_as_if_alone_and_the_best_is_marked_printed_and_drawn(
    kept: Path, photos: Path, tmp_path: Path
) -> None:
    page = tmp_path / "out" / "study.html"
    found = answer(kept, photos, "--all-checkpoints", "--html", page)
    assert [one["step"] for one in found] == [4, 8, 12], "in order, and without the one that was not finished"
    for one in found:
        alone = answer(one["model"], photos)
        assert one["metrics"]["iou"] == pytest.approx(alone["metrics"]["iou"], abs=1e-12)
        assert one["metrics"]["loss"] > 0
    best = max(found, key=lambda one: one["metrics"]["iou"])
    assert [one["step"] for one in found if one["is_best"]] == [best["step"]]

    printed = call(kept, photos, "--all-checkpoints").stdout
    assert f"best: step {best['step']}, iou {best['metrics']['iou']:.3f}" in printed

    content = page.read_text()
    assert f"Step {best['step']} is the best" in content
    (curve,) = re.findall(r'aria-label="iou over steps.*?</svg>', content, re.DOTALL)
    assert curve.count("<circle") == 3
    for one in found:
        assert f"<td>{one['step']}</td><td>{one['metrics']['loss']:.3f}" in content


def test_nothing_kept_and_a_page_of_nothing_are_refused_with_what_to_do(
    kept: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    refused = call(tmp_path / "empty", photos, "--all-checkpoints")
    assert refused.exit_code == 2
    assert "Set `train.keep_every: 100`" in " ".join(refused.stderr.split())
    refused = call(kept, photos, "--html", kept / "page.html")
    assert refused.exit_code == 2
    assert "add --all-checkpoints" in " ".join(refused.stderr.split())
