"""Views of a sweep on MLflow's own pages: its trials flat, best first, in charts; kept as MLflow keeps a shared view.

MLflow 3 keeps the state of a shared page as a tag of the experiment, `mlflow.sharedViewState.KEY`, and opens it by
`?viewStateShareKey=KEY`: the state as JSON, deflated, in base64. Its fields are those that the page itself writes.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence

from segdist.core.spec import digest
from segdist.metrics import is_minimised
from segdist.tracking import names
from segdist.tracking.encoding import key

TAG = "mlflow.sharedViewState."
LATENCY, SIZE, LOSS = "runtime/latency_p50_ms", "model/bytes", "train/loss"
_MOST_COLUMNS = 12
"""Searched keys that are shown: a tag of an experiment has 5,000 characters at most."""
_IN_CHARTS = 100
_TRAINING = "workflowType=machine_learning"
"""Otherwise a browser that opens MLflow for the first time shows its pages for agents around these."""


def key_of(parent_run_id: str) -> str:
    """Under which the view of a sweep is kept: one each, which later starts write anew."""
    return f"segdist-{parent_run_id}"


def encoded(state: Mapping[str, object]) -> str:
    """The value of the tag."""
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()


def links(uri: str, experiment_id: str, parent_run_id: str, winner: str = "") -> dict[str, str]:
    """Addresses on MLflow's pages, by what they show.

    Args:
        uri: of the server.
        experiment_id: of the sweep.
        parent_run_id: its run.
        winner: the run of the best trial; "" for none.
    """
    root = f"{uri.rstrip('/')}/#/experiments/{experiment_id}"
    view = f"{root}/runs?{_TRAINING}&viewStateShareKey={key_of(parent_run_id)}"
    found = {
        "charts": f"{view}&compareRunsMode=CHART",
        "trials": view,
        "models": f"{root}/models?{_TRAINING}",
        "sweep": f"{root}/runs/{parent_run_id}?{_TRAINING}",
    }
    return found | ({"winner": f"{root}/runs/{winner}?{_TRAINING}"} if winner else {})


def report_of(experiment_id: str, parent_run_id: str) -> str:
    """Where MLflow shows the report of a sweep, as an address on its own pages, wherever they are."""
    return f"#/experiments/{experiment_id}/runs/{parent_run_id}/artifacts/{names.REPORT}?{_TRAINING}"


def of_sweep(
    parent_run_id: str, metric: str, searched: Mapping[str, bool], pictures: Sequence[Sequence[str]]
) -> dict[str, object]:
    """What the view of a sweep shows.

    Args:
        parent_run_id: the sweep's run.
        metric: that decides.
        searched: the searched keys, and whether every trial has a value of it: MLflow draws only those that do.
        pictures: of each table of images, the keys of the pictures that trials log.
    """
    best = names.BEST + metric
    params = list(searched)[:_MOST_COLUMNS]
    of_all = [key(name) for name in params if searched[name]]
    shown = list(dict.fromkeys((best, f"{names.BEST}val/boundary_iou", names.GAIN, LATENCY, SIZE)))
    columns = [*(f"params.`{key(name)}`" for name in params), *(f"metrics.`{key(name)}`" for name in shown)]
    charts = [
        _chart("LINE", "scores", metricKey=key(metric), selectedMetricKeys=[key(metric)], **_LINE),
        _chart("PARALLEL", "scores", selectedParams=of_all, selectedMetrics=[key(best)]),
        _chart("SCATTER", "scores", xaxis=_measure(LATENCY), yaxis=_measure(best)),
        _chart("LINE", "loss", metricKey=LOSS, selectedMetricKeys=[LOSS], **_LINE),
        *(_chart("IMAGE", "images", imageKeys=list(one), step=1, showRunParams=False) for one in pictures),
    ]
    grid = [_section("images", **_TABLE)] if pictures else []
    return {
        "searchFilter": f"tags.`{names.PARENT}` = '{parent_run_id}'",
        "orderByKey": f"metrics.`{key(best)}`",
        "orderByAsc": is_minimised(metric),
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [_section("scores"), *grid, _section("loss")],
        "isAccordionReordered": True,  # otherwise MLflow sorts them among the sections that it makes itself
        "hideEmptyCharts": True,
    }


_LINE: Mapping[str, object] = {
    "xAxisKey": "step",
    "yAxisKey": "metric",
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "lineSmoothness": 0,
    "range": {},
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}


def _chart(kind: str, section: str, **more: object) -> dict[str, object]:
    return {
        "uuid": f"segdist-{digest([section, kind, more])}",
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": _IN_CHARTS,
        "deleted": False,
        "isGenerated": False,
        **more,
    }


_TABLE = {"columns": 1, "cardHeight": 760}
"""One card of the whole width, in which the same images stand in rows and trials in columns."""


def _section(name: str, **more: object) -> dict[str, object]:
    shown = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": name, "name": name.capitalize(), **shown, **more}


def _measure(name: str) -> dict[str, str]:
    return {"key": key(name), "type": "METRIC"}
