"""`segdist compare --html`: the pages of a sweep, of what its trials left; what is missing of old sweeps is said."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

from segdist.cli import app
from segdist.commands.side_by_side import write_images
from segdist.pages import leaderboard
from tests.commands.conftest import Evaluated
from tests.pages.test_page import tags
from tests.pages.test_side_by_side import page_data


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_report_and_page_are_written_beside_each_other_and_link_to_each_other(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "pages"
    done = call("roofs", "--storage", evaluated.storage, "--html", folder)
    assert done.exit_code == 0, done.output
    report, page = folder / "report.html", folder / "side_by_side" / "index.html"
    assert f"report    {report}\n" in done.stdout
    assert f"images    {page}\n" in done.stdout
    links = [[a.get("href") for tag, a in tags(one).seen if tag == "a"] for one in (report, page)]
    assert "side_by_side/index.html" in links[0]
    assert "../report.html" in links[1]
    text = page.read_text("utf-8")
    assert "Trial 3 kept no predictions" in text
    data = page_data(text)
    assert [t["number"] for t in data["trials"]] == [2, 1]
    assert data["total"] == len(data["images"]) == 3


def test_scores_on_the_page_are_those_of_the_evaluation(evaluated: Evaluated, tmp_path: Path) -> None:
    board = leaderboard(evaluated.tracker, "roofs")
    assert board.sweep.run_id == evaluated.parent
    done = write_images(evaluated.tracker, board, str(tmp_path))
    assert done is not None
    shown = page_data(Path(done.uri).read_text("utf-8"))["trials"]
    measured = [
        evaluated.tracker.read_json(t.run_id, "evaluation/val.json")["metrics"]["iou"] for t in board.trials[:2]
    ]
    assert [t["overall"] for t in shown] == pytest.approx(measured)


@pytest.mark.parametrize("most", [0, 2])
def test_a_sweep_says_how_many_images_it_shows(
    evaluated: Evaluated, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = leaderboard(evaluated.tracker, "roofs")
    assert board.sweep.run_id == evaluated.parent
    monkeypatch.setitem(board.sweep.spec["evaluate"], "images_side_by_side", most)
    done = write_images(evaluated.tracker, board, str(tmp_path / "page"))
    if not most:
        assert done is None
        assert not (tmp_path / "page").exists()
        return
    assert done is not None
    text = Path(done.uri).read_text("utf-8")
    assert "Of 3 validation images, the 2 images are shown whose scores differ most" in text
    singles = [
        [i["iou"] for i in evaluated.tracker.read_json(t.run_id, "evaluation/val.json")["images"]]
        for t in board.trials[:2]
    ]
    spread = np.abs(np.subtract(*np.array(singles, float)))
    assert {i["id"] for i in page_data(text)["images"]} == {
        evaluated.tracker.read_json(board.trials[0].run_id, "evaluation/val.json")["images"][k]["image_id"]
        for k in np.argsort(-spread)[:2]
    }


def test_a_sweep_whose_data_are_others_now_has_a_page_that_says_so(evaluated: Evaluated, tmp_path: Path) -> None:
    board = leaderboard(evaluated.tracker, "roofs")
    assert board.sweep.run_id == evaluated.parent
    spec = cast("Any", board.sweep.spec)
    spec["storage"] = str(tmp_path / "storage")
    spec["data"]["sources"][0]["seed"] = 5
    done = write_images(evaluated.tracker, board, str(tmp_path / "page"))
    assert done is not None
    text = Path(done.uri).read_text("utf-8")
    assert "cannot be shown" in text
    assert "run the sweep again" in text
