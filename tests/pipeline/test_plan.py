"""A plan says what a sweep takes, keeps that beside it, and refuses what cannot fit with what would."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdist.core import storage
from segdist.core.errors import DataError, SpecError, StorageError
from segdist.engine.probe import Request
from segdist.engine.taken import Taken
from segdist.pages import plan_rows
from segdist.pipeline import plan as planning
from segdist.pipeline.packing import Node
from segdist.pipeline.plan import plan_sweep
from segdist.pipeline.planned import PLAN, Plan, against_truth, clock, gigabytes, planned, text_of
from segdist.pipeline.probing import Answer, TeacherRequest, ask
from segdist.pipeline.run import folder_of
from segdist.searching import Epoch, Ledger, Trial
from segdist.searching.budget import OVER
from tests.engine.drawn import CLASSES, roofs, tiny_run

GB = 1_000_000_000


def taken(point: dict[str, Any], *, batch: int = 8, memory: float = 2.0) -> Taken:
    """What a family took, in round numbers."""
    return Taken(
        point=point,
        batch=batch,
        setup_seconds=1.0,
        step_seconds=0.5,
        score_seconds=0.1,
        save_seconds=0.2,
        evaluate_seconds=0.3,
        timing_seconds=2.0,
        memory=int(memory * GB),
        resident=int(memory * GB),
        evaluation_memory=GB,
        checkpoint_bytes=30_000_000,
        model_bytes=10_000_000,
        picture_bytes=200_000,
        evaluation_bytes=1000.0,
    )


class Machine:
    """A machine of a certain size, on which probes answer at once."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, gigabytes: float = 16, cards: tuple[float, ...] = ()
    ) -> None:
        self.asked: list[dict[str, object]] = []
        self.cards = [card * GB for card in cards]
        self.each_image, self.divided = 0.25, 0.0
        self.card = float("inf")
        monkeypatch.setattr(planning, "ask", self)
        monkeypatch.setattr(planning, "memory_here", lambda: int(gigabytes * GB))
        monkeypatch.setattr(planning, "this_machine", lambda gpus: Node("here", 4, gpus, gigabytes * GB))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def __call__(self, request: Request | TeacherRequest, *, most_bytes: float) -> Answer:
        assert isinstance(request, Request)
        point: dict[str, object] = {"train.batch_size": 8} if request.largest is None else dict(request.largest)
        self.asked.append(point)
        batch = int(str(point.get("resources.micro_batch", point["train.batch_size"])))
        needed = self.each_image * batch
        answer = Answer(cards=self.cards, at=point)
        if request.largest is None:
            answer.own = taken({}, batch=2, memory=0.5)
        most = most_bytes if not self.cards or request.run.resources.gpus_per_worker == 0 else self.card * GB
        if needed * GB > most:
            answer.lack = f"it needs more than {most / GB:.1f} GB"
        else:
            answer.matters, answer.largest = ("train.batch_size",), taken(point, batch=batch, memory=needed)
            answer.largest = replace(answer.largest, divided_bytes=int(self.divided * GB))
        return answer


def test_a_plan_of_a_sweep_is_kept_in_its_folder_and_starts_no_trial(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    spec, plan = plan_sweep(str(sweep), ["resources.price_per_hour=3.6"])
    assert plan.trials == 3
    assert plan.at_once == 4
    assert plan.images == {"train": 17, "val": 4, "test": 3}
    epochs = 17 * 0.5 / 2 + 4 * 0.1 + 0.2
    assert plan.trial_seconds == pytest.approx(planning._EACH_TRIAL + 1.0 + 6 * epochs)
    assert plan.money == pytest.approx(plan.wall_seconds * 3.6 / 3600)
    assert plan.peak_memory == 2 * GB
    assert plan.disk["checkpoints"] == planning._CHECKPOINTS * 3 * 30_000_000
    kept = storage.read_json(storage.join(folder_of(spec), PLAN))
    assert Plan.model_validate(kept) == plan
    assert {entry.uri.rpartition("/")[2] for entry in storage.find(spec.storage)} == {PLAN}
    text = text_of(plan)
    assert "3 trials: 3 to epoch 1, 2 to epoch 6" in text, "the best one and the untuned one"
    assert "largest point (batch_size=8): 2.00 GB" in text
    assert re.search(rf"time +{clock(plan.wall_seconds)}: start", text)


def test_the_disk_of_a_plan_counts_models_that_are_kept_and_pictures_that_come_back(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    less, more = (
        plan_sweep(str(sweep), ["search.asha=null", *asked])[1].disk for asked in ([], ["train.keep_every=2"])
    )
    assert less["kept models"] == 0
    assert more["kept models"] == 3 * 6 * 3 / 2 * 10_000_000, "trials, epochs, steps of 17 images, a model"
    assert {**less, "kept models": 0} == {**more, "kept models": 0}
    shown = 3 * (3 + 1)  # of each trial after epochs 1, 2 and 4, and after the best one
    assert planning._times_shown((3.0,) * 6) == shown
    assert planning._times_shown((3.0, 2.0)) == 8
    once = 200_000 + 10 * 100_000 + 4 * 1000.0 + 10_000_000
    assert less["models"] == pytest.approx(3 * once + 4 * planning._PNG * 100_000 * shown)


def test_memory_decides_how_many_trials_run_at_once(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, gigabytes=7)
    assert plan_sweep(str(sweep), [])[1].at_once == 2  # 95 % of seven, less what Ray has, is 5.15


def test_a_step_that_does_not_fit_is_halved_until_it_does(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, gigabytes=3)
    plan = plan_sweep(str(sweep), [])[1]
    assert machine.asked == [{"train.batch_size": 8}, {"train.batch_size": 8, "resources.micro_batch": 4}]
    assert (plan.families[0].asked, plan.families[0].micro_batch) == (8, 4)
    assert "a pass of 8 does not fit (it needs more than 1.4 GB): `resources.micro_batch: 4` does" in text_of(plan)


def test_a_point_that_fits_with_no_image_is_refused_with_what_fits(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, gigabytes=3)
    machine.each_image = 2.0
    with pytest.raises(
        SpecError, match=r"batch_size=8 it needs more than.*What fits: the values of the file.*0\.50 GB"
    ):
        plan_sweep(str(sweep), [])
    assert not storage.find(str(sweep.parent / "storage")), "nothing was kept"


def test_a_share_of_a_card_that_is_too_small_is_refused_with_one_that_is_not(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, cards=(4, 4))
    with pytest.raises(SpecError, match=r"2\.00 GB of a card.*gpus_per_worker: 0\.4.*1\.52 GB.*Raise that to 0\.53"):
        plan_sweep(str(sweep), ["resources.gpus_per_worker=0.4"])
    assert plan_sweep(str(sweep), ["resources.gpus_per_worker=0.6"])[1].at_once == 2


FSDP = ["resources.strategy=fsdp", "resources.workers=2", "resources.gpus_per_worker=1", "train.batch_size=8"]


def test_of_what_workers_divide_each_counts_its_part(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe measures the whole; 2 GB fit no card of 1.5 GB, but less half of 1.2 GB they do."""
    machine = Machine(monkeypatch, cards=(1.5, 1.5))
    with pytest.raises(SpecError, match=r"2\.00 GB of a card"):
        plan_sweep(str(sweep), [*FSDP, "resources.strategy=ddp"])
    machine.divided = 1.2
    largest = plan_sweep(str(sweep), FSDP)[1].families[0].largest
    assert (largest.memory, largest.resident) == (1_400_000_000, 2 * GB), "a card's memory is not the process's"


def test_a_model_that_fits_a_card_only_in_parts_is_measured_beside_it(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, cards=(1.5, 1.5))
    machine.card, machine.each_image, machine.divided = 0.2, 0.25, 1.2
    with pytest.raises(SpecError, match=r"at least one image a step, but .* it needs more than 0\.2 GB"):
        plan_sweep(str(sweep), [*FSDP, "resources.strategy=ddp"])
    largest = plan_sweep(str(sweep), FSDP)[1].families[0].largest
    assert (largest.memory, largest.resident) == (1_400_000_000, 1_400_000_000)
    assert (
        "`unet_cbam` does not fit a card whole: its seconds are those of this machine's CPU" in capsys.readouterr().err
    )
    machine.each_image = 20.0
    with pytest.raises(SpecError, match=r"A probe is one worker, which divides nothing.*run the sweep without a plan"):
        plan_sweep(str(sweep), FSDP)


def test_a_disk_that_is_too_small_is_refused_with_how_many_trials_fit(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    monkeypatch.setattr(planning, "free_bytes", lambda _: storage.SPARE_BYTES + 140_000_000)
    with pytest.raises(StorageError, match=r"`search\.trials: 2` would fit"):
        plan_sweep(str(sweep), [])


def test_a_budget_that_holds_no_trial_is_refused_and_one_that_holds_some_bounds_the_plan(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    with pytest.raises(SpecError, match=r"budget must hold one trial.*hours` is 0\.001: raise it to at least 0\.01"):
        plan_sweep(str(sweep), ["search.budget={hours: 0.001}"])
    more = ["search.trials=40", "search.concurrency=1", "search.asha=null"]
    whole, bounded = (plan_sweep(str(sweep), [*more, *b])[1] for b in ([], ["search.budget={hours: 0.1}"]))
    assert whole.trials == 40
    assert 9 <= bounded.trials <= 11, "338 seconds of 31 each"
    assert bounded.seconds["start"] + bounded.seconds["search"] < 0.11 * 3600


def test_what_was_predicted_is_compared_with_what_came(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Machine(monkeypatch)
    spec, plan = plan_sweep(str(sweep), [])
    ledger = Ledger(str(tmp_path / "sweep"))
    epochs = tuple(Epoch(epoch=n, metrics={"train/peak_memory_mb": 500.0 * n}) for n in (1, 2))
    for number in range(3):
        ledger.write(Trial(number=number, values={}, epochs=epochs, state="finished"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights").write_bytes(b"0" * 5000)
    found = against_truth(plan, seconds=90.0, starts=1, ledger=ledger, folders=[str(tmp_path / "models")])
    assert plan_rows(found) == [
        ("trials", "3", "3 (+0 %)"),
        ("wall time", clock(plan.wall_seconds), f"0:01:30 ({100 * (90 / plan.wall_seconds - 1):+.0f} %)"),
        ("peak memory of a trial", "2.00 GB", "1.00 GB (-50 %)"),
        ("disk, without the report", gigabytes(plan.disk_bytes - plan.disk["report"]), "0.0 MB (-100 %)"),
    ]
    again = against_truth(plan, seconds=90.0, starts=2, ledger=ledger, folders=[])
    assert plan_rows(again)[1][0] == "wall time, of 2 starts together"
    assert planned(folder_of(spec)) == plan
    storage.write_json(storage.join(folder_of(spec), PLAN), {"of": "another version"})
    assert planned(folder_of(spec)) is None
    assert planned(str(tmp_path)) is None
    assert plan_rows({}) == [], "a sweep that was never planned"


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_sweep_that_ended_early_is_compared_with_what_was_predicted_for_the_part_that_ran(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: Any
) -> None:
    """One trial of three, whether it came to its end or the budget cut it off."""
    Machine(monkeypatch)
    plan = plan_sweep(str(sweep), ["search.asha=null"])[1]
    assert sum(plan.epochs) == 18
    ledger = Ledger(str(tmp_path / "sweep"))
    epochs = tuple(Epoch(epoch=n, metrics={"train/peak_memory_mb": 2000.0}) for n in (1, 2, 3))
    reason = OVER if state == "stopped" else ""
    ledger.write(Trial(number=0, values={}, epochs=epochs, state=state, reason=reason))
    each_trial, each_epoch, once = plan.seconds["evaluation"] / 3, plan.seconds["search"] / 18, plan.seconds["start"]
    expected = once + plan.seconds["data"] + each_trial + 3 * each_epoch
    disk = plan.disk["data"] + (plan.disk["checkpoints"] + plan.disk["models"]) / 3
    (tmp_path / "all").write_bytes(b"0" * round(disk))
    found = against_truth(plan, seconds=expected, starts=1, ledger=ledger, folders=[str(tmp_path)])
    rows = plan_rows(found)
    assert rows[:3] == [
        ("trials", "3", "1 (-67 %)"),
        ("epochs", "18", "3 (-83 %)"),
        ("wall time, of the 1 trial that ran", clock(expected), f"{clock(expected)} (+0 %)"),
    ]
    assert rows[4] == (
        "disk, without the report, of the 1 trial that ran",
        gigabytes(disk),
        f"{gigabytes(disk)} (+0 %)",
    )


def test_data_that_are_not_there_are_said_before_anything_is_probed(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    with pytest.raises(DataError):
        plan_sweep(str(sweep), ["data.sources=[{format: coco, path: /nowhere/a.json}]"])
    assert not machine.asked


def test_a_probe_that_takes_more_memory_than_it_may_is_ended() -> None:
    request = Request(tiny_run(), {}, (), None, CLASSES, roofs(2), roofs(2))
    assert "it needs more than 0.0 GB" in ask(request, most_bytes=20e6).lack


@pytest.mark.slow  # imports torch in two processes: 20 seconds
def test_the_command_probes_really_and_prints_json(sweep: Path, segdist: Any) -> None:
    done = segdist("plan", sweep, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["families"][0]["own"]["memory"] > 5e7
    assert plan["families"][0]["own"]["step_seconds"] > 0
