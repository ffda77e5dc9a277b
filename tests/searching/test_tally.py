"""What all trials come to is what adding them up anew gives, whatever happened to them and in whatever order."""

import random
from pathlib import Path

import pytest

from segdist.searching import Epoch, Ledger, Saved, Trial
from segdist.searching.tally import Tally


@pytest.mark.parametrize(("metric", "best"), [("val/iou", max), ("val/hausdorff_95", min)])
def test_the_tally_equals_adding_up_after_every_write(tmp_path: Path, metric: str, best: object) -> None:
    chance, ledger, tally = random.Random(0), Ledger(str(tmp_path)), Tally(metric)
    ledger.listen(tally.note)
    seen = set[str]()
    for _ in range(400):
        number = chance.randrange(6)
        trial = ledger[number] if number in {t.number for t in ledger.trials} else Trial(number=number, values={})
        what = chance.choice(["epoch", "epoch", "again", "end", "break", "empty"])
        if what == "epoch":
            metrics = {metric: chance.random()} if chance.random() < 0.9 else {}
            trial = trial.with_epoch(Epoch(epoch=trial.last_epoch + 1, metrics=metrics))
        elif what == "again":
            last = Saved(uri="x", epoch=chance.randint(1, 3))
            trial = trial.model_copy(update={"latest": last, "constraints": {}}).from_latest()
        elif what == "empty":
            trial = trial.model_copy(update={"latest": None}).from_latest()
        else:
            broken = {"model/bytes": 1.0} if what == "break" else {}
            trial = trial.model_copy(update={"state": "finished", "constraints": broken})
        ledger.write(trial)
        seen.add(what)
        scores = [s for t in ledger.trials if not t.broken for s in t.scores(metric)]
        assert tally.best == (best(scores) if scores else None)  # type: ignore[operator]
        assert tally.leader is None or tally.best in ledger[tally.leader].scores(metric)
        assert tally.done == sum(t.has_ended for t in ledger.trials)
        assert tally.epochs == sum(len(t.epochs) for t in ledger.trials)
        assert tally.open_epochs == sum(len(t.epochs) for t in ledger.trials if not t.has_ended)
        assert [t.number for t in ledger.trials] == sorted({t.number for t in ledger.trials})
    assert len(seen) == 5
    again = Tally(metric)
    Ledger(str(tmp_path)).listen(again.note)
    assert (again.best, again.done, again.epochs) == (tally.best, tally.done, tally.epochs)


def test_who_listens_later_takes_the_place_of_who_listened_before(tmp_path: Path) -> None:
    ledger, first, second = Ledger(str(tmp_path)), Tally("val/iou"), Tally("val/iou")
    ledger.write(Trial(number=0, values={}, state="failed"))
    ledger.listen(first.note)
    ledger.listen(second.note)
    ledger.write(Trial(number=1, values={}, state="failed"))
    assert (first.done, second.done) == (1, 2)
