"""Every panel shows something, every rule says what it should, and `up` starts what answers both."""

import http.server
import itertools
import json
import math
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segdist.commands.dashboards import Prometheus, dashboard_files, render_dashboards
from segdist.core.bounded_yaml import load_yaml
from segdist.core.errors import BackendError, SpecError
from segdist.pages.dashboards import Dashboard, Panel, Query, dashboards
from segdist.pages.dashboards_page import Span
from segdist.pipeline import watching
from segdist.pipeline.measures import MEASURES, WAITS, Measure
from tests.pipeline.conftest import SWEEP, command, environment

FILES = dashboard_files()
BOARDS = dashboards(FILES / "grafana")
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="no Prometheus on this machine: apt-get install prometheus",
)
VALUES = {
    "sweep": ["cracks"], "family": ["sam", "unet_cbam"], "teacher": ["sam"], "metric": ["val/iou"], "device": ["cpu"],
    "state": ["waiting", "running", "finished", "stopped", "failed", "infeasible", "done", "planned"],
    "part": ["data", "forward", "backward", "update", "score", "report", "read", "teacher", "decide", "write"],
    "resource": ["cpu", "gpu"], "outcome": ["useful", "wasted"], "cause": ["process"], "place": ["local"],
}  # fmt: skip
NODE = {"ip": "192.0.2.7", "IsHeadNode": "true"}
OF_RAY: tuple[tuple[str, dict[str, str]], ...] = (
    *((name, NODE) for name in (
        "ray_node_cpu_count", "ray_node_cpu_utilization", "ray_node_disk_free", "ray_node_disk_usage",
        "ray_node_mem_total", "ray_node_mem_used", "ray_node_network_receive_speed", "ray_node_network_send_speed",
    )),
    *(("ray_resources", {"Name": "CPU", "State": state}) for state in ("USED", "AVAILABLE")),
    *((name, {**NODE, "GpuIndex": "0"}) for name in ("ray_node_gpus_utilization", "ray_node_gram_used")),
)  # fmt: skip
"""What Ray 2.60 exports of its own, as far as we ask for it."""


def every_query() -> Iterator[tuple[Dashboard, Panel, Query]]:
    for board in BOARDS:
        for panel in board.panels:
            for query in panel.queries:
                yield board, panel, query


def exported(measure: Measure) -> Iterator[tuple[str, dict[str, str]]]:
    """Series of a metric as Ray exports them."""
    for values in itertools.product(*(VALUES[label] for label in measure.labels)):
        labels = dict(zip(measure.labels, values, strict=True)) | {"WorkerId": "ab" * 28, "NodeAddress": "192.0.2.7"}
        if measure.kind != "histogram":
            yield measure.exported, labels
            continue
        for bound in (*map(str, WAITS), "+Inf"):
            yield f"{measure.exported}_bucket", {**labels, "le": bound}
        yield f"{measure.exported}_count", labels


def exposition(moments: list[float]) -> str:
    """All metrics of the table, and Ray's, rising over some moments, as OpenMetrics."""
    lines = []
    for name, labels in [*OF_RAY, *(series for one in MEASURES for series in exported(one))]:
        said = ",".join(f'{label}="{value}"' for label, value in labels.items())
        lines += [f"{name}{{{said}}} {10 + n} {at:.0f}" for n, at in enumerate(moments)]
    return "\n".join([*lines, "# EOF", ""])


@contextmanager
def prometheus(folder: Path, *arguments: str) -> Iterator[Prometheus]:
    port = free_port()
    own = (
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder}",
        "--storage.tsdb.retention.time=1d",
    )
    with (folder.parent / "log").open("wb") as log:
        server = subprocess.Popen([str(shutil.which("prometheus")), *own, *arguments], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while not watching._answers(f"http://127.0.0.1:{port}/-/ready"):
            assert time.monotonic() < until, (folder.parent / "log").read_text()
            time.sleep(0.1)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(30)


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@contextmanager
def prometheus_that_saw(text: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus with what some OpenMetrics say."""
    (folder / "metrics").write_text(text)
    make = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "metrics"), str(folder / "data")]
    subprocess.run(make, check=True, capture_output=True)
    (folder / "none.yml").write_text("{}")
    with prometheus(folder / "data", f"--config.file={folder / 'none.yml'}") as server:
        yield server


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Span]]:
    """A Prometheus that has seen every metric for ten minutes."""
    folder, end = tmp_path_factory.mktemp("prometheus"), time.time()
    with prometheus_that_saw(exposition([end - 600 + 10 * n for n in range(61)]), folder) as server:
        yield server, Span(end - 600, end, 10)


def has_data(server: Prometheus, query: Query, span: Span, sweep: str = "") -> bool:
    return any(math.isfinite(value) for one in server.range(query.promql(sweep), span) for _, value in one.points)


@needs_prometheus
def test_a_panel_without_data_is_a_failure(recorded: tuple[Prometheus, Span]) -> None:
    server, span = recorded
    empty = [f"{b.name}: {p.title}: {q.expr}" for b, p, q in every_query() if not has_data(server, q, span)]
    assert not empty
    assert not has_data(server, Query("sum(ray_segdist_trials_total)", ""), span), "there is no such metric"


@needs_prometheus
def test_a_labelling_of_seconds_has_a_pace_although_its_counter_was_never_seen_at_0(tmp_path: Path) -> None:
    end = time.time()
    at, who = [end - 60 + 10 * n for n in range(5)], 'sweep="cracks",teacher="sam"'
    done = [f'ray_segdist_labelling_images{{{who},state="done"}} {n} {at[i]:.0f}' for i, n in enumerate((0, 0, 64))]
    all_at_once = [f"ray_segdist_labelled_images_total{{{who}}} 64 {moment:.0f}" for moment in at[2:]]
    with prometheus_that_saw("\n".join([*done, *all_at_once, "# EOF", ""]), tmp_path) as server:
        asked = [
            query
            for board, panel, query in every_query()
            if board.name == "labelling" and panel.title in ("Images per second", "Images labelled per second")
        ]
        assert len(asked) == 2
        for query in asked:
            (one,) = server.range(query.promql(), Span(at[2], at[4], 10))
            assert max(value for _, value in one.points) > 0.5, query.expr


@needs_prometheus
def test_the_page_shows_every_panel(recorded: tuple[Prometheus, Span], tmp_path: Path) -> None:
    server, _ = recorded
    render_dashboards(tmp_path / "page.html", prometheus=server.address, hours=0.2)
    page = (tmp_path / "page.html").read_text()
    assert "Nothing was told" not in page
    assert page.count("<h3>") == sum(len(board.panels) for board in BOARDS)
    assert page.count("<svg") == sum(panel.kind == "timeseries" for board in BOARDS for panel in board.panels)
    assert "cracks val/iou" in page
    render_dashboards(tmp_path / "one.html", prometheus=server.address, hours=0.2, sweep="seams", only=["sweep"])
    assert "Nothing was told" in (tmp_path / "one.html").read_text(), "there is no sweep `seams`"
    with pytest.raises(SpecError, match=r"no dashboard `sweeps`. Did you mean `sweep`"):
        render_dashboards(tmp_path / "one.html", prometheus=server.address, only=["sweeps"])
    with pytest.raises(BackendError, match=r"No Prometheus answers at http://127\.0\.0\.1:1 .*dashboards up"):
        render_dashboards(tmp_path / "one.html", prometheus="http://127.0.0.1:1")
    with pytest.raises(BackendError, match=r"refuses a query: .*parse error"):
        server.range("sum(", Span(0, 10, 10))


@needs_prometheus
def test_rules_are_sound_and_say_what_they_should() -> None:
    for what in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(
            ["promtool", *what], cwd=FILES / "prometheus", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    rules = load_yaml((FILES / "prometheus/rules.yml").read_text(), "rules.yml", error=SpecError)
    tests = (FILES / "prometheus/rules_test.yml").read_text()
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert (
            f"alertname: {rule['alert']}\n" in tests
            if "alert" in rule
            else f"expr: {rule['record']}" in tests or ("labelled" in rule["record"])
        )


def test_dashboards_ask_for_what_there_is_and_everything_is_asked_for() -> None:
    known = {name for one in MEASURES for name, _ in exported(one)}
    said = [query.expr for _, _, query in every_query()] + [(FILES / "prometheus/rules.yml").read_text()]
    asked = {name for text in said for name in re.findall(r"\bray_segdist_\w+", text)}
    assert asked <= known
    told = {one.exported for one in MEASURES}
    assert not [name for name in told if not any(name in text for text in said)], "told, and shown nowhere"
    of_ray = {name for name, _ in OF_RAY}
    assert {n for text in said for n in re.findall(r"\bray_(?!segdist)\w+", text)} <= of_ray


def test_grafana_gets_files_that_are_whole() -> None:
    contents = {file.stem: json.loads(file.read_text()) for file in (FILES / "grafana").glob("*.json")}
    assert set(contents) == {"sweep", "labelling", "cluster", "cost"}
    assert len({one["uid"] for one in contents.values()}) == 4
    source = (FILES / "grafana/provisioning/datasources/segdist.yml").read_text()
    for name, content in contents.items():
        text = json.dumps(content)
        assert not re.search(r"\$\{|\[\[|DS_|(?<!\{)\{(?=\$)", text), f"{name}: a template that nobody fills"
        assert set(re.findall(r"\$(\w+)", text)) <= {"sweep", "__rate_interval", "__all"}, name
        ids = [panel["id"] for panel in content["panels"]]
        assert len(ids) == len(set(ids)), name
        taken: set[tuple[int, int]] = set()
        for panel in content["panels"]:
            refs = [target["refId"] for target in panel["targets"]]
            assert len(refs) == len(set(refs)), panel["title"]
            assert panel["description"].endswith("."), panel["title"]
            for one in (panel, *panel["targets"]):
                assert f"uid: {one['datasource']['uid']}\n" in source, panel["title"]
            for target in panel["targets"]:
                assert target["expr"].count("(") == target["expr"].count(")")
                by = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))) | {
                    "ip",
                    "GpuIndex",
                }
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= by, panel["title"]
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, f"{panel['title']} covers another panel"
            assert max(x for x, _ in cells) < 24
            taken |= cells


class Node(http.server.BaseHTTPRequestHandler):
    """What a node of a cluster says."""

    def do_GET(self) -> None:
        text = exposition([0.0])
        body = re.sub(r" 0\n", "\n", text).replace("# EOF\n", "").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster of one node of which Ray's file on this machine tells, and one that was stopped."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Node)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{server.server_port}"
    (tmp_path / "ray").mkdir()
    said = [{"labels": {"job": "ray"}, "targets": [place, f"127.0.0.1:{free_port()}"]}]
    (tmp_path / "ray" / watching._DISCOVERY).write_text(json.dumps(said))
    monkeypatch.setattr(watching, "_ray_folders", lambda: {tmp_path})
    yield place
    server.shutdown()
    server.server_close()


def test_clusters_of_this_machine_are_found_by_what_ray_writes_those_that_stopped_and_those_of_others_are_not(
    node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watching._of_this_machine() == [node]
    own = tmp_path / "segdist-ray-abc" / "r"
    own.mkdir(parents=True)
    (own / watching._DISCOVERY).write_text('[{"targets": ["127.0.0.1:x"]}')
    assert watching._of_this_machine() == [node], "half a file is no file"
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
    files = list(tmp_path.rglob(watching._DISCOVERY))
    expected = [node] if any(file.stat().st_uid == 0 for file in files) else []
    assert watching._of_this_machine() == expected


def test_what_keeps_it_from_starting_is_said_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(SpecError, match=r"no Prometheus on this machine\. Install it: apt-get install prometheus"):
        watching.watch()
    monkeypatch.setattr("shutil.which", lambda name: "/bin/false" if name == "prometheus" else None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BackendError, match=rf"cannot have port {port} .*--port {port + 1}"):
            watching.watch(port=port)
    monkeypatch.setattr(watching, "_ray_folders", lambda: {tmp_path})
    with pytest.raises(BackendError, match=r"No Ray cluster of yours runs on this machine\..*--address HOST:6379"):
        watching.watch(port=free_port())
    with pytest.raises(BackendError, match=r"No Ray cluster answers at 127\.0\.0\.1:1:"):
        watching.watch(port=free_port(), address="127.0.0.1:1")
    with pytest.raises(SpecError, match=r"HOST:PORT of its head .* ray://127\.0\.0\.1:10001"):
        watching.watch(port=free_port(), address="ray://127.0.0.1:10001")
    monkeypatch.setattr(watching, "_of_this_machine", lambda: ["127.0.0.1:9"])
    with pytest.raises(SpecError, match="keeps its data on a local disk, but --folder is s3://b/x"):
        watching.watch(port=free_port(), folder="s3://b/x")
    with pytest.raises(BackendError, match=r"false does not run\. Its last words, in .*false\.log"):
        watching.watch(port=free_port(), folder=str(tmp_path / "data"))


GRAFANA = """\
#!{python}
import http.server, json, os
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
with open("{said}", "w") as file:
    json.dump({{name: value for name, value in os.environ.items() if name.startswith(("GF_", "SEGDIST_"))}}, file)
place = (os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"]))
http.server.HTTPServer(place, Health).serve_forever()
"""
"""Stands for Grafana, which is in no registry: it says what it was told."""


@needs_prometheus
def test_up_watches_a_cluster_until_it_is_stopped_and_has_kept_what_it_saw(node: str, tmp_path: Path) -> None:
    port, folder, grafana = free_port(), tmp_path / "data", tmp_path / "bin" / "grafana-server"
    grafana.parent.mkdir()
    grafana.write_text(GRAFANA.format(python=sys.executable, said=tmp_path / "grafana.json"))
    grafana.chmod(0o755)
    words = command("dashboards", "up", "--port", str(port), "--folder", str(folder))
    words += ["--grafana-port", str(further := free_port())]
    env = {**environment(tmp_path), "RAY_TMPDIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    env["PATH"] = f"{grafana.parent}:{env['PATH']}"
    with (tmp_path / "said").open("wb") as said:
        running = subprocess.Popen(words, stdout=said, stderr=said, env=env)
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and running.poll() is None:
            with_data = watching._answers(f"{server.address}/-/ready") and has_data(
                server, Query(f'up{{instance="{node}"}} == 1', ""), Span(time.time() - 60, time.time(), 5)
            )
            if with_data:
                break
            time.sleep(0.3)
        assert running.poll() is None, (tmp_path / "said").read_text()
        assert with_data, (tmp_path / "said").read_text()
    finally:
        running.send_signal(signal.SIGINT)
        code = running.wait(60)
    text = (tmp_path / "said").read_text()
    assert code == 0, text
    assert f"metrics   {server.address}" in text
    assert "Ctrl-C ends it." in text
    assert "stopped   what was measured is kept" in text
    assert folder.stat().st_mode & 0o077 == 0, "it is its user's alone"
    assert f"grafana   http://127.0.0.1:{further}/dashboards" in text
    told = json.loads((tmp_path / "grafana.json").read_text())
    assert told["SEGDIST_PROMETHEUS"] == server.address
    assert Path(told["SEGDIST_DASHBOARDS"], "sweep.json").is_file()
    assert Path(told["GF_PATHS_PROVISIONING"], "dashboards", "segdist.yml").is_file()
    for address in (f"{server.address}/-/ready", f"http://127.0.0.1:{further}/api/health"):
        assert not watching._answers(address), "nothing runs on"
    assert (folder / "data" / "wal").is_dir()


@pytest.mark.slow
@needs_prometheus
@pytest.mark.xdist_group("ray")
def test_every_panel_shows_something_of_a_sweep_that_runs(tmp_path: Path) -> None:
    """A sweep with labels and a search in a cluster of its own, watched by `up` as a user would."""
    file = tmp_path / "watched.yaml"
    label = "label:\n  teacher: {family: sam, sam: {size: tiny}}\n  prompt: {strategy: box}\n  images_per_shard: 8\n"
    text = SWEEP.format(storage=tmp_path / "storage").replace("count: 24", "count: 96")
    text = text.replace("model:\n", f"  boxes_only: [train]\n{label}model:\n", 1)
    text = text.replace("train: {epochs: 6", "resources: {price_per_hour: 0.5}\ntrain: {epochs: 12")
    file.write_text(text)
    short = tempfile.mkdtemp(prefix="sd", dir="/tmp")  # the names of sockets have a largest length
    env = {**environment(tmp_path), "RAY_TMPDIR": short}  # of clusters of others here nothing is seen
    started, port = time.time(), free_port()
    sweep = subprocess.Popen(command("run", file), env=env, stdout=subprocess.DEVNULL)
    up: subprocess.Popen[bytes] | None = None
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        while sweep.poll() is None and (up is None or up.poll() is not None):
            time.sleep(2)  # until its cluster is there
            up = subprocess.Popen(command("dashboards", "up", "--port", str(port), "--folder", tmp_path / "p"), env=env)
            with_patience = partial(watching._answers, f"{server.address}/-/ready")
            while up.poll() is None and not with_patience():
                time.sleep(0.5)
        assert sweep.wait(900) == 0
        assert up is not None
        assert up.poll() is None
        span = Span(started, time.time(), 5)
        empty = [
            f"{b.name}: {p.title}: {q.expr}"
            for b, p, q in every_query()
            if not p.needs_card and not has_data(server, q, span, "tiny")
        ]
        assert not empty
        for title in ("Images per second", "Images labelled per second", "Images learned from per second"):
            (query,) = (q for _, panel, q in every_query() if panel.title == title)
            lines = server.range(query.promql("tiny"), span)
            assert max(value for one in lines for _, value in one.points) > 0, f"{title}: {query.expr}"
        time.sleep(15)  # it is seen that the cluster is gone
        now = Span(time.time() - 1, time.time(), 1)
        assert not server.range("ray_segdist_best_score", now), "of a sweep that ended no gauge stays"
        assert not server.range('ALERTS{alertstate="firing"}', now)
    finally:
        for process in (sweep, up):
            if process and process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(120)
        shutil.rmtree(short, ignore_errors=True)


def test_a_wheel_brings_the_files(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {file.relative_to(FILES).as_posix() for file in FILES.rglob("*") if file.is_file()}
    assert {f"segdist/dashboards/{file}" for file in files} <= names
    assert len(files) > 8
