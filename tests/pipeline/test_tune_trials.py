"""A trial whose process broke down is taken up, has failed, or ends the search, as its end deserves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

from segdist.core import storage
from segdist.core.errors import StorageError
from segdist.core.spec import SweepSpec
from segdist.pipeline import tune_trials
from segdist.pipeline.progress import Progress
from segdist.pipeline.tune_trials import Ends, Problem, Suggestions, broken_down_alone
from segdist.searching import Ledger, Search
from tests.pipeline.test_memory_kills import said
from tests.searching.sweeps import sweep

FOR_MEMORY = "Failure # 1\nOutOfMemoryError: 1 worker(s) were killed due to the node running low on memory."
DIED = "Failure # 1\nThe actor died unexpectedly before finishing this task.\n\tip: 10.0.0.7"


@dataclass
class Told:
    """Stands for MLflow's recording: which trials there was news of."""

    news: list[tuple[int, str]] = field(default_factory=list)

    def changed(self, number: int, *, error: str = "") -> None:
        self.news.append((number, error))


@dataclass
class OfTune:
    """A trial as Tune has it."""

    config: dict[str, Any]
    error_file: str
    trial_id: str = ""
    status: str = "ERROR"


class Running:
    """A search whose trials run in nobody's process."""

    def __init__(self, spec: SweepSpec, folder: Path, *, max_failures: int = 2) -> None:
        self.search, self.problem, self.told = Search(spec, Ledger(str(folder))), Problem(), Told()
        self.suggestions, self._folder = Suggestions(self.search, lambda: 3, self.problem), folder
        progress = Progress(self.search, metric="val/iou", epochs=3, searched=[])
        told: Any = self.told
        self.ends = Ends(self.search, told, progress, self.problem, self.suggestions, max_failures=max_failures)

    def suggest(self, *names: str) -> list[int]:
        return [found["number"] for name in names if isinstance(found := self.suggestions.suggest(name), dict)]

    def start(self, number: int) -> None:
        self.ends.on_trial_start(0, [], self._trial(number))

    def break_down(self, name: str, number: int, text: str) -> str:
        """What becomes of a trial, in the order in which Tune tells."""
        (self._folder / "error.txt").write_text(text)
        self.suggestions.on_trial_complete(name, error=True)
        self.ends.on_trial_error(0, [], self._trial(number))
        return self.search.ledger[number].state

    def _trial(self, number: int) -> Any:
        return OfTune({"number": number}, str(self._folder / "error.txt"))


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(sweep(trials=4, asha=None), tmp_path)


def test_a_trial_is_taken_up_as_often_as_the_sweep_says_and_told_why(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the second time on with half the images at once, for the kernel tells nobody why it ends a process."""
    held = []
    for state in ("waiting", "waiting", "waiting", "waiting", "waiting", "failed"):
        assert running.suggest("a") == [0]
        held.append(running.search.ledger[0].micro_batch)
        running.start(0)
        assert running.break_down("a", 0, DIED) == state
    assert held == [None, None, 4, 2, 1, 1]
    said = capsys.readouterr().out
    assert said.count("trial 0   begins again: A process died on the node 10.0.0.7.") == 2
    assert "trial 0   begins again: with 4 images at once instead of 8: A process died on the node 10.0.0.7." in said
    assert running.search.ledger[0].reason.startswith("A process died on the node 10.0.0.7.")
    assert running.told.news[-1] == (0, DIED)
    assert running.suggest("b") == [1]


def test_a_trial_whose_process_died_before_it_began_is_taken_up_too(running: Running) -> None:
    running.suggest("a")
    assert running.break_down("a", 0, DIED) == "waiting"
    assert running.search.ledger[0].starts == 1
    assert running.suggest("b") == [0]


def test_one_that_had_to_go_for_the_memory_of_others_has_not_failed_and_fewer_run_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Running(sweep(trials=4, asha=None), tmp_path, max_failures=0)
    assert running.suggest("a", "b", "c", "d") == [0, 1, 2]
    for number in range(3):
        running.start(number)
    assert running.break_down("c", 2, FOR_MEMORY) == "waiting"
    assert running.suggest("d") == [], "memory holds two"
    assert running.break_down("b", 1, FOR_MEMORY) == "waiting"
    assert running.suggest("d") == [], "memory holds one"
    for micro_batch in (4, 2, 1):
        assert running.break_down("a", 0, FOR_MEMORY) == "waiting", "alone, it is too large itself"
        assert running.search.ledger[0].micro_batch == micro_batch
        assert running.suggest("a") == [0]
        running.start(0)
    assert running.break_down("a", 0, FOR_MEMORY) == "infeasible"
    assert "from now on 2 trials at once" in (said := capsys.readouterr().out)
    assert "from now on 1 trial at once" in said
    assert running.suggest("d", "e") == [1], "and the others have their turn, one by one"


def test_one_that_had_to_go_alone_for_what_other_programs_hold_waits_and_fails_and_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between them it takes fewer images at once, which may fit beside what stays."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    running = Running(sweep(trials=4, asha=None), tmp_path, max_failures=0)
    text, held = said(0.73, used=21.9), []
    for pause in (30.0, 120.0, 0.0, 0.0, 0.0):
        assert running.suggest("a") == [0]
        held.append(running.search.micro_batch(running.search.ledger[0]))
        running.start(0)
        assert running.break_down("a", 0, text) == "waiting"
        if pause:
            now[0] += pause - 1
            assert running.suggest("a") == [], "others have not had the time"
            now[0] += 1
    assert held == [8, 8, 8, 4, 2]
    assert running.suggest("a") == [0]
    running.start(0)
    assert running.break_down("a", 0, text) == "failed"
    trial = running.search.ledger[0]
    assert not trial.too_large
    assert "0.2 GB by `/usr/bin/postgres`. It waited for them 2 times. Have them end" in trial.reason
    assert (
        "begins again: in 120 seconds: Other processes hold the memory of the node 10.0.0.7" in capsys.readouterr().out
    )
    assert running.suggest("b") == [1], "the search goes on"


def test_one_that_holds_most_of_a_node_itself_is_halved_without_a_pause(running: Running) -> None:
    for micro_batch in (4, 2, 1):
        assert running.suggest("a") == [0]
        running.start(0)
        assert running.break_down("a", 0, said(18.0, used=21.9)) == "waiting"
        assert running.search.ledger[0].micro_batch == micro_batch
    assert running.suggest("a") == [0]
    running.start(0)
    assert running.break_down("a", 0, said(18.0, used=21.9)) == "infeasible"


def test_what_had_done_its_part_before_its_process_died_has_ended(running: Running) -> None:
    running.suggest("a")
    running.start(0)
    running.search.ledger.change(0, state="stopped")
    assert running.break_down("a", 0, DIED) == "stopped"
    assert not running.search.is_waiting


@pytest.mark.parametrize("lack", ["[Errno 28] No space left on device", "Could not connect to the endpoint URL"])
def test_a_storage_that_no_trial_can_write_to_ends_the_search_and_fails_none(tmp_path: Path, lack: str) -> None:
    spec = sweep(trials=4, asha=None).model_copy(update={"storage": str(tmp_path / "full")})
    running = Running(spec, tmp_path, max_failures=0)
    running.suggest("a")
    running.start(0)
    place = storage.join(storage.absolute(spec.storage), "sweeps/s/checkpoints/0000")
    text = f"ray::train() (ip=10.0.0.7)\nsegdist.core.errors.StorageError: Cannot write {place}: {lack}. Fix it."
    with pytest.raises(StorageError, match=r"Cannot write .*\nWhat is done is kept; the same command goes on with it"):
        running.break_down("a", 0, text)
    assert isinstance(running.problem.error, StorageError)
    assert running.search.ledger[0].state == "waiting"


def test_a_full_disk_of_the_machine_that_all_trials_run_on_ends_the_search_and_that_of_one_node_a_trial(
    tmp_path: Path,
) -> None:
    text = "ray::train() (pid=1, ip={})\nOSError: [Errno 28] No space left on device: '/tmp/segdist-x/state.pt'"
    here, there = (Running(sweep(trials=4, asha=None), tmp_path / name, max_failures=1) for name in ("here", "there"))
    for running in (here, there):
        running.suggest("a")
        running.start(0)
    assert there.break_down("a", 0, text.format("10.0.0.7")) == "waiting"
    assert here.break_down("a", 0, text.format("127.0.0.1")) == "waiting"  # another trial may have left some space
    for running in (here, there):
        running.suggest("b")
        running.start(0)
    assert there.break_down("b", 0, text.format("10.0.0.7")) == "failed"
    with pytest.raises(StorageError, match=r"The disk is full on this machine.*\nWhat is done is kept"):
        here.break_down("b", 0, text.format("127.0.0.1"))
    assert here.search.ledger[0].state == "waiting"


def test_what_rays_memory_monitor_does_to_one_trial_is_that_trials_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = RayActorManager._actor_task_failed
    met = list[Exception]()
    monkeypatch.setattr(RayActorManager, "_actor_task_failed", lambda *_, **__: met.append(_[2]))
    with broken_down_alone():
        manager = RayActorManager.__new__(RayActorManager)
        manager._actor_task_failed(
            tracked_actor_task=None, exception=OutOfMemoryError("the node running low on memory")
        )
        manager._actor_task_failed(tracked_actor_task=None, exception=ValueError("ours"))
    assert isinstance(met[0], RayActorError)
    assert str(met[0]) == "OutOfMemoryError: the node running low on memory"
    assert isinstance(met[1], ValueError)
    monkeypatch.undo()
    assert RayActorManager._actor_task_failed is known


@pytest.mark.parametrize("text", ["torch.OutOfMemoryError: CUDA out of memory.", "MemoryError", DIED])
def test_one_that_memory_does_not_hold_goes_on_with_half_the_images_at_once_and_ends_as_infeasible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Of a process that died the kernel's count tells that it was for memory."""
    kills = iter(range(99))
    monkeypatch.setattr(tune_trials, "kernel_kills", lambda: next(kills))
    running = Running(sweep(trials=4, asha=None), tmp_path, max_failures=0)
    held = []
    for state in ("waiting", "waiting", "waiting", "infeasible"):
        assert running.suggest("a") == [0]
        running.start(0)
        held.append(running.search.micro_batch(running.search.ledger[0]))
        assert running.break_down("a", 0, text) == state
    assert held == [8, 4, 2, 1]
    assert running.told.news[-1] == (0, text)
    assert running.suggest("b") == [1]


def test_waits_and_what_is_taken_up_again_are_counted_by_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(sweep(trials=4, asha=None), tmp_path, max_failures=1)
    told: list[tuple[str, dict[str, str]]] = []
    waits: list[float] = []
    monkeypatch.setattr(tune_trials, "count", lambda name, **labels: told.append((name, labels)))
    monkeypatch.setattr(tune_trials, "observe", lambda _, value, **__: waits.append(value))
    for text in (DIED, "ray.exceptions.NodeDiedError: the node was preempted", "ValueError: nobody knows"):
        running.suggest("a")
        running.start(0)
        running.break_down("a", 0, text)
    name = running.search.spec.name
    assert told == [
        ("segdist_retries", {"sweep": name, "cause": "process"}),
        ("segdist_retries", {"sweep": name, "cause": "node"}),
        ("segdist_preemptions", {"sweep": name}),
    ], "the third has failed for good"
    assert len(waits) == 3
    assert all(0 <= wait < 60 for wait in waits)


def test_a_trial_that_tune_gave_up_without_a_word_is_taken_up_again(running: Running, tmp_path: Path) -> None:
    assert running.suggest("a", "b", "c") == [0, 1, 2]
    running.start(1)
    (tmp_path / "error.txt").write_text("_AbortTrialExecution: Trainable runner reuse requires reset_config()")
    lost, runs, told_before = (OfTune({"number": n}, str(tmp_path / "error.txt"), name) for n, name in enumerate("abz"))
    runs.status = "RUNNING"
    trials: Any = [lost, runs, told_before]
    running.ends.on_step_end(0, trials)
    assert [running.search.ledger[n].state for n in range(2)] == ["waiting", "running"]
    assert running.suggest("d") == [0], "its place is free"
    running.ends.on_step_end(1, trials)
    assert running.suggest("e") == [], "once"


def test_a_trial_that_leaves_its_node_goes_on_however_often_and_has_not_failed(tmp_path: Path) -> None:
    running = Running(sweep(trials=4, asha=None), tmp_path, max_failures=0)
    for _ in range(3):
        running.suggest("a")
        running.start(0)
        text = "segdist.core.errors.PreemptedError: its node leaves the cluster in 9 seconds: it is saved after step 3"
        assert running.break_down("a", 0, text) == "waiting"
    assert running.search.ledger[0].reason == text.partition(": ")[2]


def test_a_trial_whose_process_died_with_its_node_has_not_failed_as_long_as_it_comes_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ends every node that it comes to is the trial's own doing."""
    monkeypatch.setattr(tune_trials, "node_is_gone", lambda _: True)
    running = Running(sweep(trials=4, asha=None), tmp_path, max_failures=1)
    for epoch, state in ((0, "waiting"), (1, "waiting"), (2, "waiting"), (2, "waiting"), (2, "failed")):
        assert running.suggest("a") == [0]
        running.start(0)
        if epoch > running.search.ledger[0].last_epoch:
            running.search.report(0, {"epoch": float(epoch), "val/iou": 0.5}, "")
        assert running.break_down("a", 0, DIED) == state
    said = capsys.readouterr().out
    assert said.count("trial 0   begins again: A node of the cluster is gone: the node 10.0.0.7.") == 4
