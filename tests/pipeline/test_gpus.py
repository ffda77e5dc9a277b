"""How many GPUs a worker gets, on clusters whose cards are made up: this machine may have none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from segdist.core.errors import BackendError, SpecError
from segdist.core.spec import Gpus, ResourceSpec, SweepSpec
from segdist.pipeline.gpus import Given, expected, given, with_gpus
from segdist.pipeline.packing import Node
from segdist.pipeline.sweep import _run_all
from segdist.pipeline.trial import Job
from segdist.pipeline.tune_trials import Problem, Suggestions
from segdist.searching import Ledger, Search
from tests.searching.sweeps import run as run_trials
from tests.searching.sweeps import sweep

UNUSABLE = "torch 2.6.0 on here cannot use one (it has no driver). Install one"


class LateError(Exception):
    """Ray's, when an answer takes too long."""


class Cluster:
    """Ray, whose torch answers the same on all nodes, or not in time."""

    exceptions = SimpleNamespace(GetTimeoutError=LateError)

    def __init__(self, *gpus: float, lack: str | None = "") -> None:
        self._gpus, self._lack = gpus, lack
        self.asked: list[dict[str, float]] = []
        self.cancelled: list[object] = []

    def nodes(self) -> list[dict[str, Any]]:
        held = [{"CPU": 4.0, **({"GPU": gpus} if gpus else {})} for gpus in self._gpus]
        return [{"Alive": True, "NodeManagerAddress": f"10.0.0.{k}", "Resources": r} for k, r in enumerate(held)]

    def remote(self, _: object) -> Any:
        def options(**asked: float) -> Any:
            self.asked.append(asked)
            return SimpleNamespace(remote=lambda: "reference")

        return SimpleNamespace(options=options)

    def get(self, _: object, *, timeout: float) -> str:
        if self._lack is None:
            raise LateError(timeout)
        return self._lack

    def cancel(self, reference: object, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference)


@pytest.mark.parametrize(
    ("cluster", "asked", "found"),
    [
        (Cluster(0.0), "auto", Given(0.0)),
        (Cluster(2.0), "auto", Given(1.0)),
        (Cluster(0.0, 1.0), "auto", Given(1.0)),  # a head without cards
        (Cluster(3.0, lack=UNUSABLE), "auto", Given(0.0, UNUSABLE)),
        (Cluster(1.0, lack=None), "auto", Given(1.0)),  # all cards are in use: then they can be used
        (Cluster(2.0), 0.5, Given(0.5)),
        (Cluster(2.0, lack=UNUSABLE), 0.0, Given(0.0)),
        (Cluster(0.0), 1.0, Given(1.0)),  # that it fits nowhere is said where trials are packed
    ],
)
def test_auto_is_a_card_where_there_is_one_that_torch_can_use(cluster: Any, asked: Gpus, found: Given) -> None:
    assert given(asked, cluster) == found
    assert all(one == {"num_cpus": 0, "num_gpus": 1} for one in cluster.asked)
    assert cluster.cancelled == (["reference"] if cluster._lack is None else [])


def test_torch_is_asked_once_as_long_as_the_nodes_are_the_same() -> None:
    cluster: Any = Cluster(1.0)
    assert [given(asked, cluster).gpus for asked in ("auto", 1.0, "auto")] == [1.0, 1.0, 1.0]
    assert len(cluster.asked) == 1
    cluster._gpus = (1.0, 1.0)
    given("auto", cluster)
    assert len(cluster.asked) == 2


def test_a_number_of_cards_that_torch_cannot_use_is_refused() -> None:
    cluster: Any = Cluster(3.0, lack=UNUSABLE)
    with pytest.raises(BackendError, match=r"ask for 0\.5 GPUs each, but torch.*no driver.*or ask for 0"):
        given(0.5, cluster)


def test_a_plan_goes_by_the_nodes_alone() -> None:
    assert expected("auto", [Node("a", 4), Node("b", 4, 1)]).gpus == 1
    assert expected("auto", [Node("a", 4)]).gpus == 0
    assert expected(0.25, [Node("a", 4)]).gpus == 0.25


def test_what_a_cluster_decides_changes_no_fingerprint_and_a_budget_in_gpu_hours_needs_a_gpu() -> None:
    spec = sweep().model_copy(update={"resources": ResourceSpec()})
    assert spec.resources.gpus_per_worker == "auto"
    for gpus in (0.0, 1.0):
        settled = with_gpus(spec, Given(gpus))
        assert settled.resources.gpus == gpus
        assert (settled.fingerprint, settled.sweep_fingerprint) == (spec.fingerprint, spec.sweep_fingerprint)
    bounded = type(spec).model_validate({**spec.model_dump(), "search": {"trials": 8, "budget": {"gpu_hours": 2}}})
    assert with_gpus(bounded, Given(1.0)).resources.gpus == 1
    with pytest.raises(SpecError, match=r"gpu_hours: 2` bounds nothing.*gives them none: torch.*budget\.hours"):
        with_gpus(bounded, Given(0.0, UNUSABLE))


def test_a_search_on_cpus_goes_on_with_the_cards_that_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Tune is started with; the trials themselves train nothing."""
    cluster: Any = Cluster(0.0)
    spec = sweep(trials=3, asha=None).model_copy(update={"resources": ResourceSpec()})
    begun: list[tuple[float, float, bool]] = []

    def run(spec: SweepSpec, job: Job, _: object, search: Search, *__: object, waits_for_cards: bool) -> int:
        begun.append((spec.resources.gpus, job.run.resources.gpus, waits_for_cards))
        assert run_trials(search, epochs=2, most=1 if waits_for_cards else 9)
        cluster._gpus = (0.0, 2.0)
        return 0

    monkeypatch.setattr("segdist.pipeline.sweep._run", run)
    some: Any = None
    meters: Any = SimpleNamespace(search=None)
    found = _run_all(spec, _job(spec, tmp_path), cluster, Ledger(str(tmp_path)), some, some, some, meters)
    assert meters.search is found
    assert found.is_done
    assert begun == [(0.0, 0.0, True), (1.0, 1.0, False)]


def test_nothing_more_begins_once_cards_have_joined_and_tune_ends_with_what_runs(tmp_path: Path) -> None:
    search = Search(sweep(trials=3), Ledger(str(tmp_path)))
    suggestions = Suggestions(search, lambda: 3, Problem())
    assert suggestions.suggest("a")["number"] == 0
    assert [suggestions.close(), suggestions.close()] == [True, False], "it is news once"
    assert suggestions.suggest("b") is None
    suggestions.on_trial_complete("a")
    assert suggestions.suggest("b") == Searcher.FINISHED


def _job(spec: SweepSpec, folder: Path) -> Job:
    return Job(spec.run, "", "", (), str(folder), "val/iou")


def test_four_bit_weights_are_refused_where_trials_get_no_card() -> None:
    spec = sweep().override({"train.adapter.kind": "qlora"})
    with pytest.raises(SpecError, match=rf"`train\.adapter\.kind: qlora` needs a GPU.*{UNUSABLE[:12]}"):
        with_gpus(spec, Given(0.0, UNUSABLE))
    assert with_gpus(spec, Given(1.0)).resources.gpus_per_worker == 1
