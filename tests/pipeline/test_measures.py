"""The metrics are what their table says, everywhere: in the code that tells them and on the page that explains them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from segdist.pipeline.measures import LABELS, MEASURES, documented, measure

PAGE = Path("dashboards/METRICS.md")
UNITS = ("seconds", "bytes", "images", "steps", "objects", "trials", "epochs", "retries", "preemptions", "money")


def told() -> Iterator[tuple[str, set[str]]]:
    """Each call that tells a metric: its name, and the labels that are written in it."""
    for file in Path("segdist/pipeline").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = ast.unparse(node.args[0]).strip("'\"")
                if name.startswith(("segdist_", "f'segdist_")):
                    yield name, {keyword.arg for keyword in node.keywords if keyword.arg}


def test_the_page_is_written_from_the_table() -> None:
    assert PAGE.read_text("utf-8") == documented(), f"write it anew: {PAGE}"


def test_names_are_as_prometheus_has_them_and_say_their_unit() -> None:
    names = [one.name for one in MEASURES]
    assert len(names) == len(set(names))
    for name in names:
        assert re.fullmatch(r"segdist_[a-z_]+", name)
        assert not name.endswith("_total"), "Ray adds it"
        assert name.endswith(UNITS) or name in ("segdist_best_score", "segdist_trial_number"), name
    assert measure("segdist_retries").exported == "ray_segdist_retries_total"
    assert measure("segdist_best_score").exported == "ray_segdist_best_score"


def test_no_label_has_as_many_values_as_there_are_trials() -> None:
    used = {label for one in MEASURES for label in one.labels}
    assert used == set(LABELS)
    assert not used & {"trial", "number", "run", "run_id", "epoch", "image"}
    assert all(one.labels[0] == "sweep" for one in MEASURES)


def test_what_is_declared_is_told_and_what_is_told_is_declared() -> None:
    ways = ("read", "written")
    calls = [(name.replace("{way}", way).strip("f'"), labels) for name, labels in told() for way in ways]
    known = {one.name: set(one.labels) for one in MEASURES}
    assert {name for name, _ in calls} == set(known)
    for name, labels in calls:
        assert labels <= known[name], name
