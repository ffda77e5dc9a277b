"""A checkpoint is whole or is not there; what is damaged is named, and the one before it is taken."""

import operator
import shutil
from pathlib import Path
from typing import Any

import pytest

from segdist.core.errors import StorageError
from segdist.pipeline.checkpoints import MARKER, Checkpoints, DamagedError, fetch, thin
from segdist.searching import Best, Ledger, Trial
from segdist.searching.budget import OVER
from segdist.searching.ledger import checkpoints_of


def saved(folder: str, tmp_path: Path, *scores: float, after: int = 0) -> Checkpoints:
    checkpoints = Checkpoints(folder, is_better=operator.ge)
    for epoch, score in enumerate(scores, after + 1):
        made = tmp_path / "made"
        (made / "model").mkdir(parents=True, exist_ok=True)
        (made / "model" / "weights").write_bytes(bytes([epoch]) * 1000)
        (made / "state").write_text(str(epoch))
        checkpoints.save(made, epoch=epoch, score=score)
    return checkpoints


def kept(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def state(checkpoints: Checkpoints, damaged: list[str] | None = None) -> str:
    with checkpoints.latest((damaged if damaged is not None else []).append) as found:
        return (found / "state").read_text() if found else ""


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = saved(str(tmp_path / "kept"), tmp_path, 0.1, 0.9, 0.2, 0.3)
    assert kept(tmp_path / "kept") == ["00002", "00004"]
    assert state(checkpoints) == "4"
    fetch(str(tmp_path / "kept" / "00002"), tmp_path / "best")
    assert (tmp_path / "best" / "model" / "weights").read_bytes() == b"\2" * 1000


def test_another_process_knows_the_best_of_the_one_before(tmp_path: Path) -> None:
    saved(str(tmp_path / "kept"), tmp_path, 0.1, 0.9)
    again = Checkpoints(str(tmp_path / "kept"), is_better=operator.ge)
    assert state(again) == "2"
    made = tmp_path / "made"
    again.save(made, epoch=3, score=0.5)
    again.save(made, epoch=4, score=0.6)
    assert kept(tmp_path / "kept") == ["00002", "00004"]


def test_a_score_that_is_undefined_is_the_best_of_nothing(tmp_path: Path) -> None:
    checkpoints = saved(str(tmp_path / "kept"), tmp_path, 0.5, float("nan"))
    assert kept(tmp_path / "kept") == ["00001", "00002"]
    assert state(checkpoints) == "2"


def test_nothing_is_the_latest_of_nothing(tmp_path: Path) -> None:
    assert state(Checkpoints(str(tmp_path / "kept"), is_better=operator.ge)) == ""


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    checkpoints = saved(str(tmp_path / "kept"), tmp_path, 0.9, 0.1)
    (tmp_path / "kept" / "00002" / MARKER).unlink()
    assert state(checkpoints) == "1"
    saved(str(tmp_path / "kept"), tmp_path, 0.5, after=1)
    assert state(checkpoints) == "2", "it is written over"


@pytest.mark.parametrize("damage", ["a flipped bit", "a missing file", "a short file"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    checkpoints = saved(str(tmp_path / "kept"), tmp_path, 0.9, 0.1)
    file = tmp_path / "kept" / "00002" / "model" / "weights"
    content = file.read_bytes()
    if damage == "a missing file":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "a short file" else bytes([content[0] ^ 1]) + content[1:])
    damaged: list[str] = []
    assert state(checkpoints, damaged) == "1"
    assert len(damaged) == 1
    assert "00002" in damaged[0]
    assert kept(tmp_path / "kept") == ["00001"]


def test_a_full_disk_here_is_no_damage_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = saved(str(tmp_path / "kept"), tmp_path, 0.9, 0.2)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
        with pytest.raises(StorageError, match="Make space") as caught:
            state(checkpoints)
    assert not isinstance(caught.value, DamagedError)
    assert kept(tmp_path / "kept") == ["00001", "00002"]
    assert state(checkpoints) == "2"


def test_a_checkpoint_names_no_file_outside(tmp_path: Path) -> None:
    saved(str(tmp_path / "kept"), tmp_path, 0.9)
    marker = tmp_path / "kept" / "00001" / MARKER
    marker.write_text(marker.read_text().replace('"state"', '"../../state"'))
    with pytest.raises(StorageError, match="outside of it"):
        fetch(str(tmp_path / "kept" / "00001"), tmp_path / "a" / "b")


def test_in_a_bucket_too(s3_bucket: str, tmp_path: Path) -> None:
    checkpoints = saved(f"{s3_bucket}/checkpoints", tmp_path, 0.1, 0.9, 0.2)
    assert state(checkpoints) == "3"
    assert state(Checkpoints(f"{s3_bucket}/checkpoints", is_better=operator.ge)) == "3"


def test_a_sweep_that_is_done_keeps_the_checkpoints_of_its_best_trials_and_of_those_that_may_go_on(
    tmp_path: Path,
) -> None:
    ledger = Ledger(str(tmp_path / "sweep"))
    trials: list[dict[str, Any]] = [
        {"state": "finished", "score": 0.9},
        {"state": "finished", "score": 0.5},
        {"state": "stopped", "score": 0.3},
        {"state": "infeasible", "score": 0.95, "constraints": {"model/bytes": 1.0}},
        {"state": "failed", "score": 0.1},
        {"state": "waiting", "score": 0.1},
        {"state": "finished", "score": 0.2, "tracked": ""},
        {"state": "infeasible", "too_large": True, "constraints": {"memory": 1.0}},
        {"state": "stopped", "reason": OVER, "score": 0.1},
    ]
    for number, one in enumerate(trials):
        place, score = checkpoints_of(ledger.folder, number), one.pop("score", None)
        saved(place, tmp_path, score or 0.0)
        best = None if score is None else Best(uri=f"{place}/00001", epoch=1, score=score)
        ledger.write(Trial(**{"number": number, "values": {}, "best": best, "tracked": "sqlite:///x", **one}))

    def left() -> list[int]:
        return [n for n in range(len(trials)) if Path(checkpoints_of(ledger.folder, n)).exists()]

    assert thin(ledger, metric="val/iou", keep=2) == 3
    assert left() == [0, 1, 4, 5, 6, 8]
    assert thin(Ledger(ledger.folder), metric="val/iou", keep=2) == 0
    assert thin(Ledger(ledger.folder), metric="val/hausdorff_95", keep=1) == 2, "the lowest was removed before"
    assert left() == [4, 5, 6, 8]
    assert [t.number for t in Ledger(ledger.folder).trials if t.thinned] == [0, 1, 2, 3, 7]


def test_what_was_saved_in_the_middle_of_an_epoch_is_the_latest_until_that_epoch_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    checkpoints = saved(str(folder), tmp_path, 0.9, 0.2)
    (tmp_path / "made" / "state").write_text("2 and 7 steps")
    checkpoints.save_midway(tmp_path / "made", epochs=2, steps=7)
    assert kept(folder) == ["00001", "00002", "00002-0000007"], "the ledger may name the one before"
    after = Checkpoints(str(folder), is_better=operator.ge)
    assert state(after) == "2 and 7 steps"
    (tmp_path / "made" / "state").write_text("3")
    after.save(tmp_path / "made", epoch=3, score=0.3)
    assert kept(folder) == ["00001", "00003"]
