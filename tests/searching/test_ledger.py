"""The ledger keeps each trial in a file of its own, whole, and names what is damaged."""

import json
import sys
import threading
from pathlib import Path

import pytest

from segdist.core import storage
from segdist.core.errors import StorageError
from segdist.searching import Epoch, Ledger, Saved, Trial
from segdist.searching.cost import Held


def test_a_trial_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    trial = Trial(number=3, values={"train.lr": 1e-3, "model.family": "sam", "label.prompt": '{"a": [1]}'})
    trial = trial.with_epoch(Epoch(epoch=1, metrics={"val/iou": 0.123456789012345}, seconds=2.5))
    ledger.write(trial)
    ledger.change(3, state="running", machine="here")
    (again,) = Ledger(str(tmp_path)).trials
    assert again == trial.model_copy(update={"state": "running", "machine": "here"})
    assert again.seconds == 2.5


def test_numbers_are_given_from_zero_and_one_that_is_free_is_given_again(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert ledger.next_number == 0
    for number in range(3):
        ledger.write(Trial(number=number, values={}))
    assert ledger.next_number == 3
    storage.remove(str(tmp_path / "trials" / "0001.json"))
    assert Ledger(str(tmp_path)).next_number == 1


def test_an_epoch_that_is_done_again_takes_the_place_of_what_was_there() -> None:
    trial = Trial(number=0, values={})
    for epoch, iou in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25)):
        trial = trial.with_epoch(Epoch(epoch=epoch, metrics={"val/iou": iou}))
    assert [(e.epoch, e.metrics["val/iou"]) for e in trial.epochs] == [(1, 0.1), (2, 0.25)]


def test_an_interrupted_trial_is_what_its_latest_checkpoint_knows() -> None:
    trial = Trial(number=0, values={}, state="running", latest=Saved(uri="a", epoch=2))
    for epoch in (1, 2, 3):
        trial = trial.with_epoch(Epoch(epoch=epoch, metrics={}))
    again = trial.from_latest()
    assert (again.state, [e.epoch for e in again.epochs]) == ("waiting", [1, 2])
    assert trial.model_copy(update={"latest": None}).from_latest().epochs == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "must be JSON"),
        ('{"number": 0}', "values"),
        ('{"number": 0, "values": {}, "state": "lost"}', "state"),
        ("[]", "its content"),
        ('{"version": 2, "number": 0}', "another version of segdist"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "trials" / "0000.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(StorageError, match=said) as error:
        Ledger(str(tmp_path))
    assert str(file) in str(error.value)


def test_the_ledger_of_a_bucket_is_read_and_written_too(s3_bucket: str) -> None:
    folder = storage.join(s3_bucket, "ledger")
    ledger = Ledger(folder)
    for number in range(40):
        ledger.write(Trial(number=number, values={"train.lr": number / 10}))
    assert [t.values["train.lr"] for t in Ledger(folder).trials] == [n / 10 for n in range(40)]


def test_a_file_says_what_people_look_for(tmp_path: Path) -> None:
    Ledger(str(tmp_path)).write(Trial(number=0, values={"train.lr": 0.1}, is_baseline=True, state="failed", reason="x"))
    content = json.loads((tmp_path / "trials" / "0000.json").read_text())
    assert content["version"] == 1
    assert (content["number"], content["is_baseline"], content["values"]) == (0, True, {"train.lr": 0.1})
    assert (content["state"], content["reason"]) == ("failed", "x")


def test_a_trial_that_comes_while_others_are_looked_at_disturbs_nobody(tmp_path: Path) -> None:
    ledger, told = Ledger(str(tmp_path)), list[int]()
    for number in (0, 1):
        ledger.write(Trial(number=number, values={}))

    def listener(trial: Trial) -> None:
        told.append(trial.number)
        if trial.number == 0:
            ledger.write(Trial(number=2, values={}))

    ledger.listen(listener)
    assert (told, [trial.number for trial in ledger.trials]) == ([0, 2, 1], [0, 1, 2])


def test_the_ledger_may_be_read_in_one_thread_while_another_writes_it(tmp_path: Path) -> None:
    ledger, errors = Ledger(str(tmp_path)), list[Exception]()
    is_done = threading.Event()

    def read() -> None:
        try:
            while not is_done.is_set():
                assert ledger.cost.spent.cpu_seconds <= len(ledger.trials)
        except Exception as error:  # noqa: BLE001 - whatever it is
            errors.append(error)

    reader = threading.Thread(target=read)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for number in range(300):
            ledger.write(Trial(number=number, values={}, spent=Held(cpu_seconds=1)))
    finally:
        is_done.set()
        reader.join()
        sys.setswitchinterval(before)
    assert errors == []
    assert ledger.cost.spent == Held(cpu_seconds=300)
