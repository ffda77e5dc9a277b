"""The images, and the cluster of containers on one machine."""

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.files import CLUSTER, content, program, version

DOCKER = CLUSTER / "docker"
SECRETS = ("RAY_AUTH_TOKEN", "STORAGE_KEY_ID", "STORAGE_SECRET", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD")


@cache
def composed(*files: str) -> dict[str, Any]:
    """What Compose makes of the files, with a secret that can be found again."""
    named = [word for file in files for word in ("-f", file)]
    env = {"PATH": os.environ["PATH"], **{name: f"secret-{name}" for name in SECRETS}}
    done = program("docker-compose", *named, "config", "--format", "json", cwd=DOCKER, env=env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_compose_takes_the_files_and_would_refuse_an_unknown_key(tmp_path: Path) -> None:
    assert set(composed("compose.yaml")["services"]) == {
        "head", "worker", "mlflow", "postgres", "storage", "bucket", "prometheus", "grafana",
    }  # fmt: skip
    (tmp_path / "compose.yaml").write_text("services: {a: {image: b, surprise: 1}}\n")
    done = program("docker-compose", "-f", tmp_path / "compose.yaml", "config")
    assert done.returncode
    assert "surprise" in done.stderr


def test_without_secrets_nothing_starts_and_the_script_that_draws_them_is_named() -> None:
    done = program("docker-compose", "-f", "compose.yaml", "config", cwd=DOCKER, env={"PATH": os.environ["PATH"]})
    assert done.returncode
    assert "run ./secrets.sh first" in done.stderr


def test_secrets_are_drawn_once_for_their_owner_alone_and_are_those_that_compose_wants(tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    script.write_bytes((DOCKER / "secrets.sh").read_bytes())
    first, second = (subprocess.run(["bash", script], capture_output=True, text=True, check=False) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 2)
    drawn = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert tuple(drawn) == SECRETS
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in drawn.values())
    assert len(set(drawn.values())) == len(SECRETS)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert not [value for value in drawn.values() if value in first.stdout]
    assert Path(".gitignore").read_text("utf-8").splitlines().count("/cluster/docker/.env") == 1


def test_only_loopback_is_published() -> None:
    ports = [port for one in composed("compose.yaml")["services"].values() for port in one.get("ports", [])]
    assert {(port["host_ip"], port["published"]) for port in ports} == {
        ("127.0.0.1", number) for number in ("3000", "5000", "8265", "9090")
    }


def test_nodes_ask_for_a_token_and_the_head_trains_nothing() -> None:
    services = composed("compose.yaml")["services"]
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert services[name]["environment"]["RAY_AUTH_TOKEN"] == "secret-RAY_AUTH_TOKEN"
        assert services[name]["cap_drop"] == ["ALL"]
    command = " ".join(services["head"]["command"])
    assert "--num-cpus 0 --num-gpus 0" in command


def test_with_cards_workers_have_all_of_them_and_the_image_that_can_use_them() -> None:
    services = composed("compose.yaml", "compose.cuda.yaml")["services"]
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", -1, ["gpu"])
    assert services["worker"]["build"]["target"] == services["head"]["build"]["target"] == "cuda"
    assert "deploy" not in services["head"]


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.cuda.yaml")])
def test_images_have_this_version_and_others_are_pinned(files: tuple[str, ...]) -> None:
    for name, one in composed(*files)["services"].items():
        image, _, tag = one["image"].partition(":")
        assert tag, name
        assert tag != "latest", name
        if "build" in one:
            assert tag.partition("-")[0] == version(), name
            assert one["build"]["target"] in (tag.partition("-")[2], image.partition("-")[2]), name


def test_hadolint_finds_nothing() -> None:
    done = program("hadolint", "--no-color", DOCKER / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_every_image_runs_as_a_user_and_holds_what_constraints_name() -> None:
    stages = re.split(r"^FROM ", (DOCKER / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)[1:]
    known = {stage.split()[2]: stage for stage in stages}
    for target in ("cpu", "cuda", "mlflow"):
        base = known[target].split()[0]
        assert "USER 1000" in known[target] + known.get(base, ""), target
        builder = re.search(r"--from=([\w-]+)", known[target])
        assert builder
        assert "--constraint constraints.txt" in known[builder[1]], target
    named = set(re.findall(r"-t ([\w-]+):(\S+) ", (DOCKER / "Dockerfile").read_text("utf-8")))
    assert named == {("segdist", f"{version()}-cpu"), ("segdist", f"{version()}-cuda"), ("segdist-mlflow", version())}


def test_an_image_is_built_from_named_files_which_are_here() -> None:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert all(Path(rule[1:]).exists() for rule in rules if rule.startswith("!"))
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert {word for words in copied for word in words.split()} == {rule[1:] for rule in rules if rule.startswith("!")}


def test_extras_of_the_images_exist() -> None:
    import tomllib

    extras = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r'ARG EXTRAS="([^"]*)"', (DOCKER / "Dockerfile").read_text("utf-8")):
        assert set(named.split()) <= set(extras)


def test_prometheus_scrapes_the_port_that_nodes_export() -> None:
    (job, _) = content("docker/prometheus.yml")["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    services = composed("compose.yaml")["services"]
    for name in found["names"]:
        assert f"--metrics-export-port {found['port']}" in " ".join(services[name]["command"])


def test_grafana_and_prometheus_show_the_dashboards_and_rules_of_this_repository() -> None:
    services = composed("compose.yaml")["services"]
    mounts = {m["target"]: m["source"] for name in ("grafana", "prometheus") for m in services[name]["volumes"]}
    shown = services["grafana"]["environment"]["SEGDIST_DASHBOARDS"]
    assert Path(mounts[shown], "sweep.json").is_file()
    assert Path(mounts["/etc/grafana/provisioning"], "datasources/segdist.yml").is_file()
    assert services["grafana"]["environment"]["SEGDIST_PROMETHEUS"] == "http://prometheus:9090"
    (rules,) = content("docker/prometheus.yml")["rule_files"]
    assert Path(mounts[f"/etc/prometheus/{rules}"]).samefile("dashboards/prometheus/rules.yml")
