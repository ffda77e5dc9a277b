import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from segdist.report import Leaderboard, write_html
from segdist.spec import SweepSpec
from segdist.tracking import Tracker
from tests.tracking.conftest import start_sweep, start_trial

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


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
        if tag not in {"meta", "link", "img", "wbr", "line", "circle", "path"}:
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
    loads = [attrs[name] for _, attrs in found.seen for name in ("src", "href") if name in attrs]
    assert all(str(target).startswith(("data:", "#")) for target in loads)
    assert "url(" not in page.read_text("utf-8")


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
    assert {n: lines.count(n) for n in lines} == {str(t.number): 3 for t in board.trials if board.score(t) is not None}


def test_lines_stay_inside_their_charts(page: Path) -> None:
    text = page.read_text("utf-8")
    charts = re.findall(r'<svg viewBox="0 0 (\d+) (\d+)".*?</svg>', text, flags=re.DOTALL)
    whole = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(charts) == 3
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
    assert len([1 for tag, attrs in tags(page).seen if tag == "img" and attrs.get("src")]) == 4 * 10


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


SCRIPT = """<script>
addEventListener("load", () => {
  const errors = []; addEventListener("error", e => errors.push(e.message));
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
  steps.wide = document.documentElement.scrollWidth > innerWidth;
  steps.errors = errors;
  document.title = JSON.stringify(steps);
});</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_in_a_browser_it_sorts_highlights_and_opens_pictures_without_errors(
    page: Path, board: Leaderboard, tmp_path: Path
) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(page.read_text("utf-8").replace("</body>", SCRIPT), "utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=520,900", "--enable-logging=stderr", "--dump-dom", f"file://{probe}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    steps = json.loads(title.group(1))
    ranked = [str(t.number) for t in board.trials]
    unscored = [str(t.number) for t in board.trials if board.score(t) is None]
    scored = [n for n in ranked if n not in unscored]
    assert steps["before"] == ranked
    assert steps["byTrial"] == sorted(ranked, key=int)
    assert steps["byScore"] == [*scored, *unscored]
    assert steps["worstFirst"] == [*scored[::-1], *unscored]
    assert (steps["lines"], steps["gallery"], steps["dialog"]) == (3, "1", [True, "4 of 4"])
    assert not steps["wide"]
    assert steps["errors"] == []
    assert "CONSOLE" not in done.stderr
