"""Prometheus, and Grafana where it is installed, on this machine, looking at a Ray cluster as long as it runs."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from segdist.commands.dashboards import dashboard_files
from segdist.core import storage
from segdist.core.errors import BackendError, SpecError
from segdist.core.terminal import say
from segdist.core.text import counted
from segdist.pipeline.cluster import check_reachable, listens
from segdist.pipeline.own_cluster import PREFIX, environment

EVERY = 5.0
"""Seconds between two looks at which nodes there are; Ray's own file is as old."""
SCRAPED_EVERY = 10
"""Seconds; Ray exports as often."""
KEPT_DAYS = 30
_LOOPBACK = "127.0.0.1"
_DISCOVERY = "prom_metrics_service_discovery.json"
_FURTHER = (b"DashboardMetricsAddress", b"AutoscalerMetricsAddress")
_STARTING = 60.0
_STOPPING = 30.0
_INSTALL = {
    "prometheus": "Install it: apt-get install prometheus (Debian, Ubuntu), brew install prometheus (macOS), or "
    "https://prometheus.io/download",
    "grafana": "https://grafana.com/grafana/download",
}


def watch(*, address: str = "", port: int = 9090, grafana_port: int = 3000, folder: str = "") -> None:
    """Run Prometheus, and Grafana, until interrupted; both listen on this machine alone.

    Args:
        address: HOST:PORT of a Ray cluster; "" for those of this user on this machine.
        port: of Prometheus.
        grafana_port: of Grafana.
        folder: where what was measured is kept; "" for `prometheus` in the default storage folder.

    Raises:
        SpecError: Prometheus is not installed, or the address is none.
        BackendError: a port is taken, no cluster runs, it refuses us, or a program does not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise SpecError(f"There is no Prometheus on this machine. {_INSTALL['prometheus']}")
    grafana = shutil.which("grafana") or shutil.which("grafana-server")
    for what, number, option in (("Prometheus", port, "--port"), ("Grafana", grafana_port, "--grafana-port")):
        if what == "Prometheus" or grafana:
            _check_free(what, number, option)
    address = "" if address in ("auto", "local") else address
    if not re.fullmatch(r"[^/]+:\d+|https?://.*|", address):  # what is asked for jobs is refused with a better reason
        raise SpecError(f"A Ray cluster is looked at by the HOST:PORT of its head (6379), but --address is {address}.")
    with ExitStack() as stack:
        stack.enter_context(environment(check_reachable(address)) if address else nullcontext())
        targets = _of_cluster(address) if address else _of_this_machine
        first = targets()
        if not first:
            raise BackendError(
                "No Ray cluster of yours runs on this machine. Start one (`segdist run SWEEP.yaml` has one for as long "
                "as it runs, `ray start --head` for longer), or name one elsewhere: --address HOST:6379"
            )
        place = _folder(folder)
        _write_config(place, first)
        where = f"http://{_LOOPBACK}:{port}"
        running = {Path(program).name: stack.enter_context(_prometheus(program, place, port))}
        if grafana:
            running[Path(grafana).name] = stack.enter_context(_grafana(grafana, place, grafana_port, where))
        _say_where(where, grafana_port if grafana else 0, place, first)
        with suppress(KeyboardInterrupt):  # this is how it is meant to end
            _follow(place, targets, first, running)
    say("stopped   what was measured is kept for the next time")


def _say_where(where: str, grafana_port: int, place: Path, targets: Sequence[str]) -> None:
    say(f"metrics   {where}  ({counted(len(targets), 'place')} looked at, {KEPT_DAYS} days kept in {place})")
    say(f"alerts    {where}/alerts")
    if grafana_port:
        say(f"grafana   http://{_LOOPBACK}:{grafana_port}/dashboards")
    else:
        say(f"grafana   is not installed ({_INSTALL['grafana']}); as a page, while this runs:")
        say(f"          segdist dashboards render dashboards.html --prometheus {where}")
    say("Ctrl-C ends it.")


def _follow(
    place: Path,
    targets: Callable[[], list[str]],
    known: list[str],
    running: Mapping[str, subprocess.Popen[bytes]],
) -> None:
    """Tell Prometheus of nodes that come and go, until a program ends.

    Raises:
        BackendError: one did.
    """
    while True:
        time.sleep(EVERY)
        for name, process in running.items():
            if process.poll() is not None:
                raise BackendError(_ended(place, name))
        now = targets()
        if now != known:
            _write_targets(place, now)
            known = now


def _of_this_machine() -> list[str]:
    """Where the metrics of this user's clusters here are, by the files that Ray writes; of stopped ones, none."""
    folders = _ray_folders()
    files = {folder / "ray" / _DISCOVERY for folder in folders}
    files |= {file for folder in folders for file in folder.glob(f"{PREFIX}*/r/{_DISCOVERY}")}
    found: list[str] = []
    for file in sorted(files):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if file.stat().st_uid in (os.geteuid(), 0):  # another user's would have us ask whom he likes
                found += [target for group in json.loads(file.read_text()) for target in group["targets"]]
    return [target for target in dict.fromkeys(found) if _listens(target)]


def _ray_folders() -> set[Path]:
    """Below which clusters keep their files, where nobody chose another place for one."""
    chosen = os.environ.get("RAY_TMPDIR")
    return {Path(chosen)} if chosen else {Path(tempfile.gettempdir()), Path("/tmp")}  # noqa: S108


def _of_cluster(address: str) -> Callable[[], list[str]]:
    """The same of a cluster anywhere, which is asked; while it does not answer, its nodes are looked at as before."""
    import ray

    store, found = ray._raylet.GcsClient(address=address), list[str]()

    def targets() -> list[str]:
        nonlocal found
        try:
            nodes = store.get_all_node_info(timeout=_STARTING).values()
            further = [store.internal_kv_get(key, None) for key in _FURTHER]
        except Exception:  # noqa: BLE001 - Ray raises anything here; a cluster that is gone may come back
            return found
        # Ray names the ports of the autoscaler and the dashboard also where nobody listens there.
        known = [place for place in (one.decode() for one in further if one) if _listens(place)]
        found = sorted(f"{node.node_manager_address}:{node.metrics_export_port}" for node in nodes if not node.state)
        found += known
        return found

    return targets


def _listens(target: str) -> bool:
    host, _, port = target.rpartition(":")
    return port.isdigit() and listens(host.strip("[]"), int(port))


def _check_free(what: str, port: int, option: str) -> None:
    """A port of this machine must be free.

    Raises:
        BackendError: it is not.
    """
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((_LOOPBACK, port))
        except OSError as error:
            raise BackendError(
                f"{what} cannot have port {port} of this machine: {error.strerror}. If it runs there already, open "
                f"http://{_LOOPBACK}:{port}; otherwise name another port: {option} {port + 1}"
            ) from error


def _folder(asked: str) -> Path:
    """The folder of this user's alone.

    Raises:
        SpecError: it is no local one.
    """
    place = asked or storage.join(storage.default_folder(), "prometheus")
    if not storage.is_local(place):
        raise SpecError(f"Prometheus keeps its data on a local disk, but --folder is {place}.")
    folder = Path(storage.absolute(place))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def _write_config(place: Path, targets: Sequence[str]) -> None:
    content = {
        "global": {"scrape_interval": f"{SCRAPED_EVERY}s", "evaluation_interval": "30s"},
        "rule_files": [str(dashboard_files() / "prometheus" / "rules.yml")],
        "scrape_configs": [
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": [str(place / "targets.json")], "refresh_interval": f"{EVERY:.0f}s"}],
            }
        ],
    }
    (place / "prometheus.yml").write_text(json.dumps(content, indent=1))  # JSON is YAML
    _write_targets(place, targets)


def _write_targets(place: Path, targets: Sequence[str]) -> None:
    storage.write_json(str(place / "targets.json"), [{"targets": list(targets), "labels": {"job": "ray"}}])


def _prometheus(program: str, place: Path, port: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    command = [
        program,
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={place / 'data'}",
        f"--storage.tsdb.retention.time={KEPT_DAYS}d",
        f"--web.listen-address={_LOOPBACK}:{port}",
        "--log.level=warn",
    ]
    return _started(place, command, {}, f"http://{_LOOPBACK}:{port}/-/ready")


def _grafana(program: str, place: Path, port: int, prometheus: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    files = dashboard_files() / "grafana"
    settings = {
        "GF_SERVER_HTTP_ADDR": _LOOPBACK,
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(place / "grafana"),
        "GF_PATHS_LOGS": str(place / "grafana"),
        "GF_PATHS_PROVISIONING": str(files / "provisioning"),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",  # who may look: as with Prometheus, users of this machine
        "GF_ANALYTICS_REPORTING_ENABLED": "false",  # nothing leaves the machine unasked
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "SEGDIST_PROMETHEUS": prometheus,
        "SEGDIST_DASHBOARDS": str(files),
    }
    home = next((path for path in ("/usr/share/grafana", "/opt/homebrew/share/grafana") if Path(path).is_dir()), "")
    command = [program, *(["server"] if Path(program).name == "grafana" else [])]
    command += [f"--homepath={home}"] if home else []
    return _started(place, command, settings, f"http://{_LOOPBACK}:{port}/api/health")


@contextmanager
def _started(
    place: Path, command: Sequence[str], settings: Mapping[str, str], ready: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is ready, and ended with the block.

    Raises:
        BackendError: it does not start.
    """
    name = Path(command[0]).name
    with (place / f"{name}.log").open("wb") as log:
        # A session of its own: Ctrl-C is for us, who end it in order.
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **settings}, cwd=place, start_new_session=True
        )
    try:
        until = time.monotonic() + _STARTING
        while not _answers(ready):
            if process.poll() is not None or time.monotonic() > until:
                raise BackendError(_ended(place, name))
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - of this machine
            return bool(answer.status == 200)
    except OSError:
        return False


def _ended(place: Path, name: str) -> str:
    log = place / f"{name}.log"
    said = log.read_text(errors="replace").strip().splitlines()[-3:]
    return f"{name} does not run. Its last words, in {log}:\n" + "\n".join(line[:300] for line in said)
