"""Runs of an MLflow server, taken from its answers as they are: MLflow's client makes an object of every value."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from segdist.core.json_values import JsonObject
from segdist.tracking.runs import PAGE, ClientRuns, DatasetInput, Run, condition_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SEARCH = "/api/2.0/mlflow/runs/search"


class RestRuns(ClientRuns):
    """See `Runs`.

    Args:
        client: connected to the server.
        uri: of the server.
    """

    def __init__(self, client: "MlflowClient", uri: str) -> None:
        super().__init__(client)
        self._uri = uri

    def tagged(self, experiment_id: str, tag: str, value: str = "", *, status: str = "") -> list[Run]:
        """See `Runs`."""
        asked: dict[str, object] = {
            "experiment_ids": [experiment_id],
            "filter": condition_of(tag, value, status),
            "max_results": PAGE,
            "order_by": ["attributes.start_time ASC"],
        }
        found: list[Run] = []
        while True:
            page = self._post(asked)
            found += map(_run, page.get("runs", ()))
            if not page.get("next_page_token"):
                return found
            asked["page_token"] = page["next_page_token"]

    def _post(self, asked: Mapping[str, object]) -> JsonObject:
        """An answer as JSON; credentials, patience and refusals are those of MLflow's client."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request, verify_rest_response

        host = get_default_host_creds(self._uri)  # type: ignore[no-untyped-call]  # MLflow says no types
        answer = http_request(host, _SEARCH, "POST", json=asked)  # type: ignore[no-untyped-call]  # the same
        return dict(verify_rest_response(answer, _SEARCH).json())


def _run(content: JsonObject) -> Run:
    info, data = content["info"], content.get("data", {})
    return Run(
        run_id=info["run_id"],
        experiment_id=info["experiment_id"],
        name=info.get("run_name", ""),
        status=info["status"],
        start_time=int(info["start_time"]),
        end_time=int(info.get("end_time", 0)),
        params={one["key"]: one.get("value", "") for one in data.get("params", ())},
        metrics={one["key"]: float(one["value"]) for one in data.get("metrics", ())},
        tags={one["key"]: one.get("value", "") for one in data.get("tags", ())},
        datasets=[
            DatasetInput(one["name"], one["digest"], one.get("profile") or "{}")
            for one in (item["dataset"] for item in content.get("inputs", {}).get("dataset_inputs", ()))
        ],
    )
