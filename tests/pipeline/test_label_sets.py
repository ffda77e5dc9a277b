"""`segdist label` from the command line: every policy once, a report, a review that comes back and wins."""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segdist.cli import app
from segdist.core import masks
from segdist.datasets.shards import ShardSummary
from segdist.pipeline import label, label_sets
from segdist.pipeline.ingest import ingest
from segdist.pipeline.label_rows import LabelJob, LabelShard, TeacherMaker
from segdist.pipeline.label_sets import find_label_sets
from segdist.pipeline.run import _fingerprint
from segdist.sweepfile.loading import load
from segdist.tracking import Tracker
from tests.engine.shipped import model_folder
from tests.pipeline.conftest import Command

SWEEP = """\
name: tiny
storage: {storage}
data:
  sources: [{{format: synthetic, scene: roofs, count: 8, size: 64, seed: 1}}]
  boxes_only: [train]
label:
  teacher: {{family: sam, sam: {{size: tiny}}}}
  review: {{score: 0.999}}
  splits: [train]
  images_per_shard: 4
  actors: 1
model: {{family: unet_cbam, unet_cbam: {{image_size: 64, width: 8}}}}
train: {{epochs: 1, batch_size: 4}}
evaluate: {{pictures: 0}}
search: {{trials: 2, startup_trials: 2, asha: null}}
space:
  label.prompt: [{{strategy: box}}, {{strategy: jittered_box, count: 1}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "tiny.yaml"
    place.write_text(SWEEP.format(storage=tmp_path / "storage"))
    return place


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelling without Ray, by one actor in this process; `test_label.py` has the pool."""

    def run(units: Sequence[dict[str, Any]], job: LabelJob, teacher: TeacherMaker) -> Iterator[ShardSummary]:
        actor = LabelShard(job, teacher)
        for unit in units:
            yield ShardSummary.model_validate_json(actor(unit)["text"])

    monkeypatch.setattr(label, "_run", run)
    monkeypatch.setattr(label_sets, "connected", nullcontext)


def answer(*words: str | Path) -> str:
    found = CliRunner().invoke(app, [str(w) for w in words])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_labels_that_are_not_made_yet_are_named_with_the_command_that_makes_them(file: Path) -> None:
    found = CliRunner().invoke(app, ["label", "report", str(file)])
    assert found.exit_code == 2
    assert f"Run: segdist label {file}" in found.output


@pytest.mark.usefixtures("here")
def test_labels_are_made_for_every_policy_reported_reviewed_and_corrected(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = answer("label", file)
    assert "labelling shard 2/2" in made
    box, jittered = json.loads(answer("label", "report", file, "--json"))
    assert (box["values"], json.loads(jittered["values"]["label.prompt"])["strategy"]) == (
        {"label.prompt": '{"strategy": "box"}'},
        "jittered_box",
    )
    for report in (box, jittered):
        quality = report["quality"]
        assert quality["iou"] > quality["box_fill_iou"] > 0
        assert report["review"] + report["labelled"] == quality["objects"] > 0
        assert 0 <= quality["calibration_error"] <= 1
        assert quality["per_class"]["roof"]["objects"] == quality["objects"]
    assert box["labels"] != jittered["labels"]
    monkeypatch.setattr(label_sets, "connected", lambda: pytest.fail("Ray is started although nothing is left to do"))
    assert answer("label", file).count("labelling") == 0, "labelled twice"

    (lesson,) = box["lessons"]
    assert lesson["label"] == "roof"
    assert lesson["images"]
    assert f"would {'decide' if lesson['decides'] else 'make its scores'}" in " ".join(answer("label", file).split())
    few = tmp_path / "few"
    answer("label", "review", "export", file, "-o", few, "--teach")
    shown = {entry["image_id"] for entry in json.loads((few / "queue.json").read_text())["objects"]}
    assert shown == set(lesson["images"])

    before = _fingerprint(load(file), "sweep")
    out = tmp_path / "queue"
    assert "gain" in answer("label", "review", "export", file, "-o", out) + (out / "index.html").read_text()
    decided = json.loads((out / "coco.json").read_text())
    first = decided["annotations"][0]
    image = next(i for i in decided["images"] if i["id"] == first["image_id"])
    size_hw = image["height"], image["width"]
    drawn = masks.from_box((1, 2, 9, 8), size_hw=size_hw)
    ellipse = f'<annotations><image name="{image["file_name"]}"><ellipse label="roof"/></image></annotations>'
    (out / "ellipse.xml").write_text(ellipse)
    nothing = CliRunner().invoke(app, ["label", "review", "import", str(file), "--file", str(out / "ellipse.xml")])
    assert nothing.exit_code == 2
    assert "names 1 image of the queue, and holds 1 x ellipse" in " ".join(nothing.output.split())
    first["segmentation"] = {"size": list(size_hw), "counts": drawn.counts.decode()}
    decided["annotations"] = [first]
    (out / "mine.json").write_text(json.dumps(decided))
    said = answer("label", "review", "import", file, "--file", out / "mine.json")
    assert said.startswith("1 corrected, 0 confirmed, 0 not there")
    assert f"They count from now on: segdist label {file}, or `segdist run`." in " ".join(said.split())

    entry = json.loads((out / "queue.json").read_text())["objects"][0]
    _, sets = find_label_sets(str(file), [])
    for one in sets:  # the decision holds under every policy
        (sample,) = (s for s in one.labels.samples() if s.image_id == entry["image_id"])
        assert sample.instances[entry["index"]].mask == drawn
        assert sample.instances[entry["index"]].score == 1.0
        assert one.labels.manifest.details["corrected"] == 1
    assert _fingerprint(load(file), "sweep") != before, "a sweep that is done must learn from the corrections"

    there = len(json.loads((out / "queue.json").read_text())["objects"])
    (out / "mine.json").write_text(json.dumps({**decided, "annotations": []}))
    said = answer("label", "review", "import", file, "--file", out / "mine.json", "--removed-means-nothing")
    assert said.startswith(f"0 corrected, 0 confirmed, {there} not there, 0 undecided")


@pytest.mark.usefixtures("here")
def test_a_champion_labels_when_the_command_line_names_it(file: Path, tmp_path: Path) -> None:
    spec = load(file)
    tracker = Tracker.for_sweep(spec)
    parent = tracker.start_sweep(
        "teacher", "f", spec_text=spec.model_dump_json(), spec_file="t.yaml", tags={}, params={},
        dataset=ingest(spec).manifest,
    )  # fmt: skip
    run = tracker.start_trial(parent, "key", number=0, params={}, tags={})
    tracker.log_files(run, model_folder(tmp_path / "model", "unet_cbam"), "model")
    tracker.register_champion("teacher", run)
    file.write_text(file.read_text().partition("space:")[0])
    how = ["label.teacher.trained=teacher@champion", "label.prompt={strategy: whole_image}"]
    refused = CliRunner().invoke(app, ["label", str(file), *how])
    assert "`label.teacher.family=''` on the command line takes it away" in refused.output
    how.append("label.teacher.family=''")
    assert "teacher@champion by whole_image" in answer("label", file, *how)
    (report,) = json.loads(answer("label", "report", file, *how, "--json"))
    assert report["quality"]["objects"] == report["labelled"] + report["review"] + report["rejected"] > 0
    by_folder = [f"label.teacher.trained={tmp_path}/model", *how[1:]]
    (same,) = json.loads(answer("label", "report", file, *by_folder, "--json"))
    assert same["labels"] == report["labels"], "the same model by its folder: nothing is labelled again"
    for name in ("teacher@1", "teacher#0", run):
        (same,) = json.loads(answer("label", "report", file, f'label.teacher.trained="{name}"', *how[1:], "--json"))
        assert same["labels"] == report["labels"], name


@pytest.mark.slow
@pytest.mark.timeout(900)  # a whole sweep, beside other work
def test_trials_learn_from_the_policy_that_the_search_chose_for_them(file: Path, segdist: Command) -> None:
    done = segdist("run", file, "label.review.score=0.0")
    assert done.returncode == 0, done.stderr
    found = segdist("compare", "tiny", "--storage", file.parent / "storage", "--json")
    trials: list[dict[str, Any]] = json.loads(found.stdout)["trials"]
    assert {t["params"]["label.prompt"] for t in trials} == {
        '{"strategy": "box"}',
        '{"count": 1, "strategy": "jittered_box"}',
    }
