"""Values over the time of day: with their units, unbroken where they are known, on top of each other where asked."""

import re

import pytest

from segdist.pages.time_series import Curve, over_time, shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0234, "s", "23.4 ms"), (0.0, "s", "0"), (89.4, "s", "89.4 s"), (400, "s", "6.67 min"), (7300, "s", "2.03 h"),
        (0.724, "percentunit", "72 %"), (55, "percent", "55 %"), (1.35e9, "bytes", "1.35 GB"),
        (314e3, "Bps", "314 kB/s"), (2048, "decmbytes", "2.05 GB"), (0.8934, "none", "0.893"),
        (12345, "none", "12.3 k"),
    ],
)  # fmt: skip
def test_a_value_is_shown_with_its_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_decimals_are_as_many_as_a_panel_asks_for() -> None:
    assert shown(0.8, "none", decimals=3) == "0.800"
    assert shown(7, "none", decimals=0) == "7"


def chart(*curves: Curve, unit: str = "none", **how: bool) -> str:
    return str(over_time(curves, span=(0, 600), step=10, width=480, unit=unit, label="x", least=0, **how))


def test_a_curve_is_broken_where_nothing_was_told() -> None:
    points = [(float(at), 1.0) for at in (*range(0, 200, 10), *range(400, 600, 10))]
    whole = [(float(at), 1.0) for at in range(0, 600, 10)]
    assert chart(Curve("a", tuple(points))).count("<path") == 2
    assert chart(Curve("a", tuple(whole))).count("<path") == 1
    no_numbers = [(at, float("nan") if 200 <= at < 400 else value) for at, value in whole]
    assert chart(Curve("a", tuple(no_numbers))).count("<path") == 2
    assert chart(Curve("a", ((300.0, 1.0),))).count("<circle") == 1, "one value is a dot"


def test_stacked_curves_end_at_their_sum() -> None:
    times = [float(at) for at in range(0, 601, 10)]
    ones, twos = (Curve(name, tuple((at, height) for at in times)) for name, height in (("one", 1.0), ("two", 2.0)))
    drawn = chart(ones, twos, is_stacked=True)
    tops = {float(y) for y in re.findall(r'<path d="M54\.0 ([\d.]+) [^Z"]*" fill="none"', drawn)}
    ticks = {text: float(y) for y, text in re.findall(r'y="([\d.]+)" dy="4" text-anchor="end">([^<]+)<', drawn)}
    assert tops == {ticks["1"], ticks["3"]}


def test_an_axis_has_one_unit_and_round_ticks_in_it() -> None:
    drawn = chart(Curve("a", ((0.0, 0.0), (600.0, 400.0))), unit="s")
    ticks = re.findall(r'dy="4" text-anchor="end">([^<]+)<', drawn)
    assert ticks == ["0", "2 min", "4 min", "6 min", "8 min"]
    flat = re.findall(r'dy="4" text-anchor="end">([^<]+)<', chart(Curve("a", ((0.0, 0.0), (600.0, 0.0)))))
    assert flat[-1] == "1", "what is always 0 lies at the bottom"


def test_what_screen_readers_and_markup_get_is_escaped() -> None:
    text = str(over_time([Curve("a", ((0.0, 1.0),))], span=(0, 60), step=5, width=480, unit="none", label='<"x">'))
    assert "<&" not in text
    assert "&lt;" in text
