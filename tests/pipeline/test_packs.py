"""Several trials in one process: who has a place where, and what becomes of them when one breaks down."""

from typing import Any

import pytest
from ray.exceptions import RayActorError

from segdist.core.spec import RunSpec
from segdist.pipeline.packs import Packs
from segdist.sweepfile.alike import likeness, why_alone
from tests.engine.drawn import tiny_run


class Actor:
    """Stands for a process of Ray's; `told` is what was asked of it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_alive, self.is_to_leave = True, False
        self.leave = self

    def remote(self, token: str) -> "Actor":
        self.told.append(token)
        return self


class Rays:
    """Stands for the `ray` module."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []

    def remote(self, _: object) -> "Rays":
        return self

    def options(self, **asked: Any) -> Any:
        rays = self

        class Makes:
            def remote(self, *_: object) -> Actor:
                rays.actors.append(Actor())
                return rays.actors[-1]

        return Makes()

    def get(self, actor: Actor, timeout: float) -> None:
        assert timeout
        if not actor.is_alive:
            raise RayActorError

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)


@pytest.fixture
def ray() -> Rays:
    return Rays()


@pytest.fixture
def packs(ray: Rays) -> Packs:
    module: Any = ray
    return Packs(module, size=3, cpus=1, gpus=0, is_to_leave=lambda actor: actor.is_to_leave)


def places(packs: Packs, *kinds: str, room: int, first: int = 0) -> list[str]:
    """The process of each trial; "" for none."""
    taken = [packs.take(f"t{n}", n, kind, room=room) for n, kind in enumerate(kinds, start=first)]
    names = [one["host"] if one else "" for one in taken]
    order = {name: str(n) for n, name in enumerate(dict.fromkeys(name for name in names if name))}
    return [order.get(name, "") for name in names]


def test_trials_spread_over_the_processes_that_fit_before_they_share_one(packs: Packs) -> None:
    assert places(packs, *"aaaaaaa", room=2) == ["0", "1", "0", "1", "0", "1", ""]


def test_trials_share_a_process_only_with_their_like(packs: Packs) -> None:
    assert places(packs, "a", "b", "a", "b", "", room=2) == ["0", "1", "0", "1", ""]


def test_one_that_cannot_share_has_a_process_for_itself(packs: Packs) -> None:
    assert places(packs, "", "", "", room=2) == ["0", "1", ""]
    packs.give_up("t0", broke=False)
    assert packs.take("t3", 3, "a", room=2), "the process is used again, by another kind"


def test_a_trial_holds_its_part_of_a_process(packs: Packs) -> None:
    places(packs, *"aaa", room=1)
    assert packs.share(1) == pytest.approx(1 / 3)
    packs.give_up("t2", broke=False)
    assert packs.share(1) == 0.5
    assert packs.share(99) == 1


def test_who_broke_down_in_company_is_alone_from_then_on(packs: Packs, ray: Rays) -> None:
    places(packs, *"aa", room=1)
    packs.give_up("t0", broke=True)
    assert packs.part(0)
    assert not packs.part(1), "it runs"
    packs.give_up("t1", broke=True)
    assert packs.take("t0", 0, "a", room=1)
    assert packs.take("t1", 1, "a", room=1) is None
    packs.give_up("t0", broke=True)
    assert not packs.part(0), "it was alone, so its company is not to blame"


def test_a_process_that_is_gone_is_replaced(packs: Packs, ray: Rays) -> None:
    places(packs, *"aa", room=1)
    ray.actors[0].is_alive = False
    packs.give_up("t0", broke=True)
    packs.give_up("t1", broke=True)
    assert ray.killed[:1] == ray.actors[:1]
    assert packs.part(0)
    assert packs.part(1), "also where another was told first"
    assert packs.take("t0", 0, "a", room=1)
    assert len(ray.actors) == 2
    packs.close()
    assert ray.killed[-1] == ray.actors[-1]


def test_a_process_whose_node_is_about_to_leave_gets_no_more_trials(packs: Packs, ray: Rays) -> None:
    assert places(packs, *"aa", room=1) == ["0", "0"]
    ray.actors[0].is_to_leave = True
    assert packs.take("t2", 2, "a", room=0) is None
    assert places(packs, *"aaaa", room=1, first=2) == ["0", "0", "0", ""], "one where it stays, and full"
    assert len(ray.actors) == 2
    for number in (0, 1):
        packs.give_up(f"t{number}", broke=True)
    assert packs.take("t6", 6, "a", room=1) is None
    assert ray.killed == ray.actors[:1], "nobody uses it again"


def test_runs_are_alike_that_differ_in_rates_and_ranks() -> None:
    lora: dict[str, Any] = {"kind": "lora", "rank": 2}
    run = tiny_run(adapter=lora)
    same: list[dict[str, Any]]
    same = [{"train.lr": 1e-5}, {"train.adapter.rank": 8, "train.adapter.alpha": 2}, {"train.ema": 0.1}]
    for values in same:
        assert likeness(run.override(values), "") == likeness(run, "") != ""
    others: list[dict[str, Any]]
    others = [{"train.batch_size": 2}, {"model.unet_cbam.width": 16}, {"seed": 1}, {"train.augment": []}]
    for values in others:
        assert likeness(run.override(values), "") != likeness(run, "")
    assert likeness(run, "labels") != likeness(run, "")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"train.adapter.kind": "full"}, "kind: full"),
        ({"train.adapter.dropout": 0.1}, "dropout"),
        ({"train.compile": True}, "compile"),
        ({"resources.workers": 2}, "workers: 2"),
        ({"model.family": "yolo"}, "yolo"),
    ],
    ids=str,
)
def test_what_keeps_a_run_from_sharing_is_said(values: dict[str, object], why: str) -> None:
    run: RunSpec = tiny_run(adapter={"kind": "lora"}).override(values)
    assert why in why_alone(run)
    assert likeness(run, "") == ""
