"""A probe does what a trial does, and finds the point of a space that needs most."""

from typing import Any

import pytest

from segdist.core.errors import SegdistError
from segdist.core.spec import Range
from segdist.engine import probe
from tests.engine.drawn import CLASSES, roofs, tiny_run


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ENOUGH_SECONDS", 0.0)


def told(request: probe.Request) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    probe.probe(request, lambda kind, content: found.setdefault(kind, []).append(content))
    return found


def request(sizes: dict[str, Any], **how: Any) -> probe.Request:
    ranges = {key: Range.model_validate(value) for key, value in sizes.items()}
    about: dict[str, Any] = {"draws": (), "largest": None, "train": roofs(3), "val": roofs(2, seed=1)} | how
    return probe.Request(run=tiny_run(), sizes=ranges, classes=CLASSES, **about)


def test_the_largest_point_has_the_heaviest_value_of_each_key_that_matters() -> None:
    found = told(
        request(
            {
                "model.unet_cbam.width": [12, 8],
                "train.batch_size": {"low": 2, "high": 8},
                "train.adapter.kind": ["lora", "full"],
                "train.adapter.rank": {"choices": [4, 8], "when": {"train.adapter.kind": "lora"}},
                "model.mask2former.queries": {"choices": [10, 20], "when": {"model.family": "mask2former"}},
                "model.unet_cbam.depth": [2],
            }
        )
    )
    point = found["largest"][0]["point"]
    assert found["matters"][0][:3] == ["model.unet_cbam.width", "train.batch_size", "train.adapter.kind"]
    assert point == {**point, "model.unet_cbam.width": 12, "train.batch_size": 8}
    assert ("train.adapter.rank" in found["matters"][0]) is (point.get("train.adapter.kind") == "lora")
    assert not {key for key in point if "mask2former" in key or key.endswith("depth")}
    own, largest = found["own"][0], found["largest"][0]
    assert (own["batch"], largest["batch"]) == (4, 8)
    assert largest["memory"] > 0.95 * own["memory"], "of the whole process, so that small networks hardly differ"
    assert own["divided_bytes"] == pytest.approx(own["model_bytes"] * 3, rel=0.1), "a gradient and two states a weight"
    assert own["checkpoint_bytes"] > 2.5 * own["model_bytes"], "with the two states of AdamW, and pictures"
    for name in ("step_seconds", "score_seconds", "evaluate_seconds", "memory", "picture_bytes", "evaluation_bytes"):
        assert own[name] > 0, name
    assert found["at"][0] == {}


def test_what_a_trial_has_beside_its_probe_counts_as_its_memory() -> None:
    own = told(request({}, beside=10**12))["own"][0]
    assert min(own["memory"], own["resident"], own["evaluation_memory"]) > 10**12


@pytest.mark.parametrize(
    ("clock", "cpu", "expected"),
    [(20.0, 5.0, (20.0, 0.25)), (4.0, 7.0, (4.0, 1.0))],
    ids=["the CPU was busy with others", "two threads"],
)
def test_time_that_others_had_the_cpu_is_not_counted(
    clock: float, cpu: float, expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "has_card", lambda: False)
    times = iter([(100.0, 3.0), (100.0 + clock, 3.0 + cpu)])
    monkeypatch.setattr(probe._Watch, "_now", staticmethod(lambda: next(times)))
    assert probe._Watch().lap() == expected


def test_where_nothing_matters_the_own_point_is_the_largest() -> None:
    found = told(request({}))
    assert "largest" not in found
    assert found["matters"] == [[]]


def test_a_given_point_alone_is_measured() -> None:
    found = told(request({}, largest={"train.batch_size": 2}))
    assert [kind for kind in found if kind != "cards"] == ["at", "largest"]
    assert found["largest"][0]["batch"] == 2


def test_a_loss_that_is_not_finite_is_said() -> None:
    run = tiny_run(lr=1e-3)
    wild = probe.Request(run, {}, (), {"train.loss.dice": 1e38, "train.loss.bce": 1e38}, CLASSES, roofs(3), roofs(2))
    with pytest.raises(SegdistError, match="not finite"):
        told(wild)
