"""What people see of a sweep on MLflow's own page: opened in a browser, by the links that are printed."""

import re
from pathlib import Path

import numpy as np
import pytest

from segdist.core.panels import encode_jpeg
from segdist.pipeline.recording import BEST, VALIDATION, picture_key
from segdist.tracking import Measured, Tracker, views
from tests.browser import dom, needs_chromium
from tests.engine.shipped import model_folder
from tests.pages.fake import SPACE, fill
from tests.pipeline.test_servers import mlflow_server

__all__ = ["mlflow_server"]


@pytest.mark.slow  # a server and a browser
@needs_chromium
def test_the_links_show_trials_best_first_with_charts_and_pictures(mlflow_server: str, tmp_path: Path) -> None:
    tracker = Tracker(mlflow_server)
    parent = fill(tracker, tmp_path, trials=5)
    picture = encode_jpeg(np.full((60, 180, 3), 90, np.uint8))
    trials = tracker.trials(parent)
    for trial in trials:
        tracker.log_pictures(trial.run_id, {picture_key(BEST, 0): picture, picture_key(VALIDATION, 0): picture}, step=1)
    tables = [[picture_key(name, 0)] for name in (BEST, VALIDATION)]
    tracker.save_view(parent, searched=dict.fromkeys(SPACE, True), pictures=tables)
    trained = model_folder(tmp_path / "trained" / "model", "unet_cbam")
    scored = Measured(trials[0].best_epoch, {"val/iou": 0.875})
    tracker.keep_model(trials[0].run_id, trained, epoch=scored.epoch, family="unet_cbam", measured=scored)
    tracker.log_metrics(trials[0].run_id, {"system/cpu_utilization_percentage": 87.5}, step=1)
    links = tracker.links(parent, trials[0].run_id)
    charts = dom(links["charts"], tmp_path, milliseconds=90_000)
    assert "shared view" in charts
    said = " ".join(re.sub(r"<[^>]+>", " ", charts).split())
    sections = [(section, int(count)) for section, count in re.findall(r"(Scores|Images|Loss) \( ?(\d) ?\)", said)]
    assert sections == [("Scores", 3), ("Images", 2), ("Loss", 1)], said[:3000]
    assert "js-plotly-plot" in charts, "lines are drawn"
    assert "get-artifact" in charts, "the picture is there"
    table = dom(links["trials"], tmp_path)
    shown = list(dict.fromkeys(re.findall(r"quickstart-\d{3}", table)))
    assert shown == [f"quickstart-{trial.number:03d}" for trial in trials]
    assert "best/val/iou" in table
    assert all(key.rpartition(".")[2] in table for key in SPACE)
    models = dom(links["models"], tmp_path)
    assert f"quickstart-{trials[0].number:03d}" in models
    assert "Ready" in models
    assert "Agent versions" not in models, "the pages are those for training"
    winner = dom(links["winner"], tmp_path)
    assert views.report_of(links["models"].split("/")[-2], parent) in winner
    system = dom(links["winner"].replace("?", "/system-metrics?"), tmp_path)
    assert "cpu_utilization_percentage" in system
