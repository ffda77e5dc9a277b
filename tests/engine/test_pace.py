"""What training takes is added up by part, told about once a second, and costs nothing where nobody asks."""

import torch

from segdist.engine.pace import Pace, Work


class Clock:
    """Time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_parts_add_up_and_are_told_once_a_second() -> None:
    clock, heard = Clock(), list[Work]()
    pace = Pace(heard.append, torch.device("cpu"), clock)
    for _ in range(3):
        with pace.part("data"):
            clock.now += 0.1
        with pace.part("forward"):
            clock.now += 0.2
        with pace.part("forward"):  # a second micro-batch
            clock.now += 0.1
        pace.stepped(8)
    assert [work.steps for work in heard] == [3], "the third step ended more than a second after the beginning"
    assert heard[0].images == 24
    assert {part: round(s, 6) for part, s in heard[0].seconds.items()} == {"data": 0.3, "forward": 0.9}
    with pace.part("report"):
        clock.now += 5.0
    pace.tell()
    assert heard[1] == Work(0, 0, {"report": 5.0}), "what was told is not told again"


def test_where_nobody_listens_nothing_is_measured() -> None:
    clock = Clock()
    pace = Pace(None, torch.device("cpu"), clock)
    with pace.part("data"):
        clock.now += 3.0
    pace.stepped(8)
    pace.tell()
    assert not pace._seconds
