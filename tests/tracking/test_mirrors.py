"""TensorBoard and Weights & Biases show what is known of a trial: each point once, whatever happened."""

import importlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segdist.core import storage as stores
from segdist.core.errors import SpecError
from segdist.tracking import Measured
from segdist.tracking.mirrors import Mirrors, Shown

EPOCHS = tuple(
    Measured(epoch, {"val/iou": epoch / 10, "system/cpu_utilization_percentage": 50.0}, 1.0, 1.8e9 + epoch)
    for epoch in range(1, 6)
)
TRIAL = Shown("0003-abcdef01", "unet_cbam lr=0.1", {"train.lr": 0.1, "train.augment": ["flip"]}, EPOCHS[:2], False)


def curve(folder: Path, metric: str = "val/iou") -> list[tuple[int, float, float]]:
    """As TensorBoard reads it."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulators.EventAccumulator(str(folder))
    found.Reload()
    return [(point.step, round(point.value, 3), point.wall_time) for point in found.Scalars(metric)]


def expected(count: int) -> list[tuple[int, float, float]]:
    return [(e.epoch, e.epoch / 10, e.at) for e in EPOCHS[:count]]


def test_event_files_grow_with_the_trial_and_a_second_driver_doubles_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard" / TRIAL.name
    with Mirrors(["tensorboard"], str(tmp_path), sweep="roofs") as first:
        for count in (1, 2, 2, 3):
            first.show(replace(TRIAL, epochs=EPOCHS[:count]))
            assert curve(folder) == expected(count)
    with Mirrors(["tensorboard"], str(tmp_path), sweep="roofs") as second:
        for count in (3, 5):
            second.show(replace(TRIAL, epochs=EPOCHS[:count], has_ended=count == 5))
    assert curve(folder) == expected(5)
    assert len(curve(folder, "system/cpu_utilization_percentage")) == 5


def test_epochs_that_were_done_again_take_the_place_of_what_they_were(tmp_path: Path) -> None:
    again = replace(EPOCHS[1], metrics={"val/iou": 0.9}, at=1.9e9)
    with Mirrors(["tensorboard"], str(tmp_path), sweep="roofs") as mirror:
        mirror.show(replace(TRIAL, epochs=EPOCHS[:3]))
        mirror.show(replace(TRIAL, epochs=(EPOCHS[0], again)))
    assert curve(tmp_path / "tensorboard" / TRIAL.name) == [*expected(1), (2, 0.9, 1.9e9)]


def test_a_trial_that_ran_before_a_tracker_was_asked_for_is_shown_once(tmp_path: Path) -> None:
    ended = replace(TRIAL, epochs=EPOCHS, has_ended=True)
    for _ in range(2):
        with Mirrors(["tensorboard"], str(tmp_path), sweep="roofs") as mirror:
            mirror.show_missing(ended)
    (file,) = (tmp_path / "tensorboard" / TRIAL.name).iterdir()
    assert curve(file.parent) == expected(5)


def test_in_an_object_store_the_files_are_there_when_a_trial_has_ended(tmp_path: Path) -> None:
    with Mirrors(["tensorboard"], "memory://sweeps/roofs", sweep="roofs") as mirror:
        mirror.show(TRIAL)
        mirror.show(replace(TRIAL, epochs=EPOCHS, has_ended=True))
    (entry,) = stores.find(f"memory://sweeps/roofs/tensorboard/{TRIAL.name}")
    (tmp_path / "events.out.tfevents.0").write_bytes(stores.read_bytes(entry.uri))
    assert curve(tmp_path) == expected(5)


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(name="wandb")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(SpecError, match=r"`tracking.also: \[wandb\]` needs wandb.*segdist\[wandb\]"):
        Mirrors(["wandb"], str(tmp_path), sweep="roofs")


def records(content: bytes) -> Iterator[bytes]:
    """Of a file in the form of LevelDB's logs, as far as its first block: after a header, checksum, length and type."""
    place = 7
    while place + 7 <= min(len(content), 32768):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if kind == 1:  # whole
            yield content[place + 7 : place + 7 + length]
        place += 7 + length


@pytest.mark.filterwarnings("ignore")  # of wandb and what it imports
def test_an_offline_run_of_weights_and_biases_holds_the_values_of_a_trial_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    from wandb.proto import wandb_internal_pb2

    for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for _ in range(2):
        with Mirrors(["wandb"], str(tmp_path), sweep="roofs") as mirror:
            mirror.show(TRIAL)
            mirror.show(replace(TRIAL, epochs=EPOCHS, has_ended=True))
    (file,) = (tmp_path / "wandb" / TRIAL.name).rglob("*.wandb")
    assert "offline-run" in str(file)
    found = [wandb_internal_pb2.Record.FromString(one) for one in records(file.read_bytes())]
    rows = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    assert [float(row["val/iou"]) for row in rows] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [int(row["_step"]) for row in rows] == [1, 2, 3, 4, 5]
