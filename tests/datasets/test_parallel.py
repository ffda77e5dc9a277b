"""A function over many items in several processes."""

import os

import pytest

from segdist.datasets.parallel import FEWEST_ITEMS, ordered_map

VARIABLE = "SEGDIST_TEST_KEY"


def _look(number: int) -> tuple[int, int, str]:
    return number, os.getpid(), os.environ.get(VARIABLE, "")


def test_answers_come_in_order_and_workers_know_what_was_set_since_others_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = range(3 * FEWEST_ITEMS)
    for value in ("", "key of a bucket"):
        monkeypatch.setenv(VARIABLE, value)
        answers = list(ordered_map(_look, numbers))
        assert [number for number, _, _ in answers] == list(numbers)
        assert {seen for _, _, seen in answers} == {value}


def test_a_few_items_start_no_process() -> None:
    assert {pid for _, pid, _ in ordered_map(_look, range(FEWEST_ITEMS - 1))} == {os.getpid()}
