import html
import html.parser
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from segdist.core.spec import SweepSpec
from segdist.pages import PLAN, Leaderboard, leaderboard, report, write_html
from segdist.pages.front import unbeaten
from segdist.pages.labels import label_sets
from segdist.pages.scatter import Point, front, pareto
from segdist.tracking import Tracker, names
from tests.browser import answers, needs_chromium
from tests.tracking.conftest import start_sweep, start_trial


@pytest.fixture(scope="module")
def page(filled: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(filled, "quickstart", tmp_path_factory.mktemp("page") / "deep" / "report.html")


class Tags(html.parser.HTMLParser):
    """Every tag with its attributes, and whether each closes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "input", "wbr", "line", "circle", "path"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(page: Path) -> Tags:
    parser = Tags()
    parser.feed(page.read_text("utf-8"))
    return parser


def test_every_tag_is_closed_and_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    found = tags(page)
    assert found.open == []
    loads = [attrs[name] for tag, attrs in found.seen for name in ("src", "href") if name in attrs and tag != "a"]
    assert all(str(target).startswith(("data:", "#")) for target in loads)
    assert "url(" not in page.read_text("utf-8")


def test_what_the_trials_cost_is_said_once_they_have_ended(page: Path, board: Leaderboard) -> None:
    assert f"All trials together took {board.cost}." in page.read_text("utf-8")
    assert board.cost.startswith("617 GPU-seconds, of which 154 (25 %)")
    assert Leaderboard(replace(board.sweep, metrics={}), board.trials).cost == ""


def test_the_page_links_to_the_sweep_its_models_and_its_winner_in_mlflow_which_links_back(
    page: Path, board: Leaderboard, filled: Tracker
) -> None:
    assert board.winner
    links, text = filled.links(board.sweep.run_id, board.winner.run_id), html.unescape(page.read_text("utf-8"))
    for name in ("charts", "trials", "models", "sweep", "winner"):
        assert f'href="{links[name]}">{name}</a>' in text
    assert filled.page_command in text
    for run_id in (board.sweep.run_id, board.winner.run_id):
        note = MlflowClient(filled.uri).get_run(run_id).data.tags[names.NOTE]
        assert f"/runs/{board.sweep.run_id}/artifacts/report/report.html" in note


def test_text_of_users_is_text(page: Path) -> None:
    assert [tag for tag, _ in tags(page).seen].count("script") == 1
    text = page.read_text("utf-8")
    assert "&lt;script&gt;alert" in text
    assert "&lt;b&gt;roof &amp; trim&lt;/b&gt;" in text
    assert "# &lt;/pre&gt;&lt;b&gt;" in text
    assert "CUDA out of memory &lt;at step 3&gt;" in text


def test_every_trial_is_a_row_and_every_scored_trial_a_line_in_every_chart(page: Path, board: Leaderboard) -> None:
    seen = tags(page).seen
    rows = [attrs["data-trial"] for tag, attrs in seen if tag == "tr" and "data-trial" in attrs]
    assert rows == [str(t.number) for t in board.trials]
    lines = [attrs["data-trial"] for tag, attrs in seen if tag == "g" and "data-trial" in attrs]
    assert {n: lines.count(n) for n in lines} == {str(t.number): 5 for t in board.trials if board.score(t) is not None}


def test_lines_stay_inside_their_charts(page: Path) -> None:
    text = page.read_text("utf-8")
    charts = re.findall(r'<svg viewBox="0 0 (\d+) (\d+)".*?</svg>', text, flags=re.DOTALL)
    whole = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(charts) == 5
    for (width, height), chart in zip(charts, whole, strict=True):
        points = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", chart)
        assert points
        assert all(0 <= float(x) <= int(width) and 0 <= float(y) <= int(height) for x, y in points)


def test_the_page_says_what_the_result_rests_on(page: Path, board: Leaderboard) -> None:
    text = page.read_text("utf-8")
    assert board.sweep.fingerprint in text
    assert "5f1d0c9e8b7a6435" in text
    assert "image-unreadable" in text
    assert "box-outside" in text
    assert "filled boxes: 0.340" in text
    assert "Trials learned from pseudo-labels, and were scored against the masks" in text
    assert len([1 for tag, attrs in tags(page).seen if tag == "img" and attrs.get("src")]) == 4 * 10 + 3 + 2 * 3


def test_ranked_images_of_groups_are_galleries_of_their_own_with_what_they_are(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<option" in text
    assert "winner, lighting dark</option>" in text
    assert "winner, group bath &lt;room&gt;</option>" in text
    assert text.count("worst, iou 0.200, rooms/&lt;0&gt;.jpg</span>") == 3


def test_ranked_images_of_older_runs_are_found_under_their_old_name(
    filled: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RANKED", ("pictures_of_tomorrow", "pictures_ranked"))
    shown = report._ranked_pictures(filled, leaderboard(filled, "quickstart"))
    assert "winner, worst validation images" in [one.title for one in shown]


def test_label_quality_shows_verdicts_calibration_and_every_policy(page: Path) -> None:
    text = page.read_text("utf-8")
    part = text[text.index("Label quality") : text.index('id="provenance"')]
    assert "prompt &lt;skeleton&gt;" in part
    assert "Calibration error 0.056, correlation 0.610" in part
    assert re.search(r"drywall seam</td>.*?<td>160</td><td>1</td><td>0</td></tr>", part)
    assert re.search(r"<b>all objects</b></td>.*?0\.770.*?<td>480</td><td>3</td><td>1</td></tr>", part)


def test_labels_of_one_policy_need_no_table_of_policies_and_old_runs_no_verdicts() -> None:
    manifest = {
        "content_hash": "h",
        "details": {"labelled": 3, "quality": {"iou": 0.5, "per_class": {"a": {"iou": 0.5}}}},
    }
    (one,) = label_sets({"labels": manifest})
    assert one["title"] == ""
    assert [row["name"] for row in one["rows"]] == ["a", "all objects"]
    assert not one["has_verdicts"]
    assert label_sets({"labels": None, "policies": []}) == []


def test_consistency_importance_and_cost_are_there_the_worst_group_first(page: Path) -> None:
    text = page.read_text("utf-8")
    groups = text[text.index('scope="col">group<') :]
    assert groups.index("kitchen") != groups.index("bath &lt;room&gt;")
    assert "bath <room>" not in text
    assert all(f'scope="col">{kind}<' in text for kind in ("class", "group", "lighting"))
    assert re.search(r"<dt>lr</dt>.*?70 %", text)
    assert "over latency ms" in text
    assert "over size MB" in text
    assert "winner, worst validation images" in text


def test_the_front_holds_the_points_that_no_other_beats() -> None:
    values = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9), (5.0, 0.2)]
    points = [Point(k, "", 0.0, "", cost, score) for k, (cost, score) in enumerate(values)]
    assert [p.trial for p in front(points)] == [0, 2, 4]
    assert [p.trial for p in front(points, is_lower_better=True)] == [0, 1, 5]
    assert pareto(points[:1], cost="ms", score="iou") == ""
    assert "(log)" in pareto([Point(0, "", 0, "", 1.0, 0.1), Point(1, "", 0, "", 99.0, 0.2)], cost="ms", score="iou")


def test_the_front_of_any_number_of_objectives_is_that_of_brute_force_and_of_optuna() -> None:
    rng = np.random.default_rng(0)
    checked = 0
    for count, objectives in [(1, 1), (1, 3), (40, 1), (40, 2), (60, 3), (30, 4)]:
        losses = rng.integers(0, 6, (count, objectives)).astype(float)  # with equal ones, and equal in some
        expected = [
            not any(
                all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))
                for a in losses
            )
            for b in losses
        ]
        found = unbeaten(losses.tolist())
        assert found == expected
        study = optuna.create_study(directions=["minimize"] * objectives)
        study.add_trials([optuna.create_trial(values=list(one)) for one in losses])
        if objectives > 1:  # of one, Optuna gives the first of equals
            assert {t.number for t in study.best_trials} == {k for k, is_on in enumerate(found) if is_on}
            checked += 1
    assert checked == 4
    assert unbeaten([]) == []


def test_where_more_of_both_is_better_the_line_of_a_chart_says_so() -> None:
    values = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.6), (4.0, 0.2)]
    points = [Point(k, "", 0.0, "", cost, score) for k, (cost, score) in enumerate(values)]
    assert [p.trial for p in front(points, is_more_better=True)] == [2, 3, 4]
    assert [p.trial for p in front(points, is_lower_better=True, is_more_better=True)] == [4]


def test_the_report_of_several_objectives_marks_the_front_and_draws_each(filled: Tracker, board: Leaderboard) -> None:
    objectives = ["val/dice", "model/parameters", "runtime/latency_p95_ms"]
    sweep = replace(board.sweep, spec={**board.sweep.spec, "search": {"objectives": objectives}})
    trials = tuple(
        replace(
            t,
            metrics={name: value for name, value in t.metrics.items() if name != objectives[2]}
            | {"model/parameters": 1e6 * (1 + t.number), "val/dice": 0.4 + 0.01 * t.number},
        )
        for t in board.trials
    )
    text = report._render(filled, Leaderboard(sweep, trials))
    assert "none: runtime/latency_p95_ms was measured of no trial" in text
    assert "unbeaten" not in re.sub(r"(?s)<style>.*?</style>", "", text)
    trials = tuple(replace(t, metrics={**t.metrics, "runtime/latency_p95_ms": 10.0 + t.number}) for t in trials)
    some = Leaderboard(sweep, trials)
    text = report._render(filled, some)
    assert len(some.front) > 1
    marked = {
        int(n) for n in re.findall(r'<td data-v="(\d+)">\d+(?:<span.*?</span>)*<span class="mark">front</span>', text)
    }
    assert marked == {t.number for t in some.front}
    ringed = {int(n) for n in re.findall(r'unbeaten" data-trial="(\d+)"', text)}
    assert ringed == marked
    assert "val/iou over Dice (to the right is better)" in text
    assert "val/iou over latency P95 ms" in text
    assert "beaten by no other at val/iou, Dice, parameters M, latency P95 ms at once" in text


@pytest.mark.parametrize("scored", [False, True])
def test_a_sweep_without_trials_scores_or_space_has_a_page_too(
    tracker: Tracker, spec: SweepSpec, tmp_path: Path, scored: bool
) -> None:
    parent = start_sweep(tracker, spec.model_copy(update={"space": {}}))
    if scored:
        run = start_trial(tracker, parent)
        tracker.log_metrics(run, {"val/iou": 0.0}, step=1)
    page = write_html(tracker, "cracks", tmp_path / "report.html", parent_run_id=parent)
    assert tags(page).open == []
    assert ("Learning curves" in page.read_text("utf-8")) == scored


SCRIPT = """
addEventListener("load", () => {
  const column = () => [...document.querySelectorAll("#board tbody tr")].map(r => r.dataset.trial);
  const head = n => document.querySelectorAll("#board th button")[n];
  const steps = {before: column()};
  head(0).click(); steps.byTrial = column();
  head(2).click(); steps.byScore = column(); head(2).click(); steps.worstFirst = column();
  const row = document.querySelector('#board tr[data-trial="1"]');
  row.focus(); row.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
  steps.lines = document.querySelectorAll("g.line.on").length;
  const which = document.getElementById("which"); which.value = "1"; which.dispatchEvent(new Event("change"));
  const shown = document.querySelector("[data-gallery]:not([hidden])"); steps.gallery = shown.dataset.gallery;
  shown.querySelector("button").click();
  const dialog = document.querySelector("dialog");
  dialog.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  steps.dialog = [dialog.open, dialog.querySelector("p").textContent.slice(0, 6)];
  dialog.close();
  const range = document.getElementById("trial"), pictured = document.querySelector("#slider img");
  const before = pictured.src; range.value = range.max; range.dispatchEvent(new Event("input"));
  steps.slid = [before !== pictured.src, document.getElementById("of_trial").textContent];
  const find = document.getElementById("find"); find.value = "failed"; find.dispatchEvent(new Event("input"));
  const open = () => [...document.querySelectorAll("#board tbody tr:not([hidden])")].map(r => r.dataset.trial);
  steps.failed = [open(), document.getElementById("shown").textContent];
  find.value = ""; find.dispatchEvent(new Event("input"));
  const family = document.querySelector('[data-filter="family"]');
  family.value = "unet_cbam"; family.dispatchEvent(new Event("input")); steps.family = open();
  steps.faded = new Set([...document.querySelectorAll("svg .off")].map(e => e.dataset.trial)).size;
  family.value = ""; family.dispatchEvent(new Event("input"));
  steps.reachable = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")]
    .filter(e => e.offsetParent && e.tabIndex < 0).length;
  const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = c => {
    const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { while (e && /, 0\\)|transparent/.test(getComputedStyle(e).backgroundColor)) e = e.parentElement;
    return getComputedStyle(e || document.body).backgroundColor; };
  steps.contrast = Math.min(...[...document.querySelectorAll("p, td, th, dt, dd, h1, h2, h3, a, code, label")]
    .filter(e => e.offsetParent && e.textContent.trim()).map(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
      return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); }));
  steps.wide = document.documentElement.scrollWidth > innerWidth;
  answer(steps);
});
"""


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_it_sorts_filters_slides_and_opens_pictures_without_errors_and_is_readable(
    page: Path, board: Leaderboard, tmp_path: Path, dark: bool
) -> None:
    dark_mode = ["--blink-settings=preferredColorScheme=0"] if dark else []
    steps = answers(page, SCRIPT, tmp_path, *dark_mode)
    ranked = [str(t.number) for t in board.trials]
    unscored = [str(t.number) for t in board.trials if board.score(t) is None]
    scored = [n for n in ranked if n not in unscored]
    assert steps["before"] == ranked
    assert steps["byTrial"] == sorted(ranked, key=int)
    assert steps["byScore"] == [*scored, *unscored]
    assert steps["worstFirst"] == [*scored[::-1], *unscored]
    assert (steps["lines"], steps["gallery"], steps["dialog"]) == (5, "1", [True, "4 of 4"])
    assert steps["slid"][0]
    assert "trial" in steps["slid"][1]
    failed = [str(t.number) for t in board.trials if t.status == "FAILED"]
    assert steps["failed"] == [failed, f"{len(failed)} of {len(ranked)} trials"]
    families = {str(t.number): t.params["model.family"] for t in board.trials}
    assert set(steps["family"]) == {n for n, name in families.items() if name == "unet_cbam"}
    assert steps["faded"] == len([n for n, name in families.items() if name != "unet_cbam" and n in scored])
    assert steps["reachable"] == 0, "everything that can be used can be reached by keyboard"
    assert steps["contrast"] >= 4.5, "WCAG 2.1, level AA"
    assert not steps["wide"]
    assert steps["errors"] == []


def test_what_was_predicted_stands_beside_what_came_and_nowhere_without_a_plan(
    filled: Tracker, board: Leaderboard, page: Path, tmp_path: Path
) -> None:
    assert "plan and truth" not in page.read_text("utf-8")
    rows = [{"what": "wall time", "predicted": 100.0, "actual": 110.0, "said": ["0:01:40", "0:01:50"]}]
    filled.log_json(board.sweep.run_id, {"rows": rows}, PLAN)
    planned = write_html(filled, board.sweep.name, tmp_path / "planned.html").read_text("utf-8")
    assert "<td>wall time</td><td>0:01:40</td><td>0:01:50 (+10 %)</td>" in planned
