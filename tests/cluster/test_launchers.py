"""The files of Ray's cluster launcher and of SkyPilot."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import CLUSTER, content, pinned

RAY = ["ray/aws.yaml", "ray/on_premise.yaml"]


def prepared(name: str) -> dict[str, Any]:
    """As `ray up` has it before it asks a cloud anything."""
    found: dict[str, Any] = prepare_config(content(name))
    return found


@pytest.mark.parametrize("name", RAY)
def test_ray_up_takes_the_file(name: str) -> None:
    config = prepared(name)
    validate_config(config)
    with pytest.raises(Exception, match="surprise"):
        validate_config({**config, "surprise": 1})


@pytest.mark.parametrize("name", RAY)
def test_what_is_copied_to_the_nodes_is_here_and_installs_the_pinned_versions(name: str) -> None:
    config = prepared(name)
    local = [Path(place) for place in config["file_mounts"].values() if not place.startswith("~")]
    assert {file.name for file in local} == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "segdist"}
    assert all(file.exists() for file in local)
    assert sum("--constraint constraints.txt" in command for command in config["setup_commands"]) == 1


@pytest.mark.parametrize("name", RAY)
def test_a_token_is_asked_for_and_the_dashboard_is_on_loopback(name: str) -> None:
    config = prepared(name)
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    (login,) = (command for command in config["setup_commands"] if ".bashrc" in command)
    assert "RAY_AUTH_MODE=token" in login
    (start,) = (command for command in config["head_start_ray_commands"] if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("name", RAY)
def test_the_environment_of_a_login_is_changed_once_and_whatever_stands_there(name: str, tmp_path: Path) -> None:
    (login,) = (command for command in prepared(name)["setup_commands"] if ".bashrc" in command)
    file = tmp_path / ".bashrc"
    file.write_text("# not interactive:\nreturn\n")
    for _ in range(2):
        subprocess.run(["bash", "-c", login], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    assert file.read_text().count("RAY_AUTH_MODE=token") == 1
    shown = ["bash", "-c", f". {file}; echo $PATH $RAY_AUTH_MODE"]
    env = {"HOME": "/home/me", "PATH": "/bin"}
    said = subprocess.run(shown, env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "/home/me/segdist/.venv/bin:/bin token\n"


def test_on_aws_the_head_is_kept_and_trains_nothing_and_workers_are_on_spot() -> None:
    types = prepared("ray/aws.yaml")["available_node_types"]
    head, worker = types["head"], types["gpu_spot"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["min_workers"] == 1
    assert worker["max_workers"] > 1


def test_on_aws_only_ssh_from_one_address_is_let_in_and_disks_are_encrypted() -> None:
    config = prepared("ray/aws.yaml")
    (rule,) = config["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert [entry["CidrIp"].rpartition("/")[2] for entry in rule["IpRanges"]] == ["32"]
    for one in config["available_node_types"].values():
        assert one["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]
        assert one["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_skypilots_task_holds_no_secret_and_installs_the_pinned_versions() -> None:
    task = content("skypilot/sweep.sky.yaml")
    assert {value or "" for value in task["secrets"].values()} == {""}
    assert "RAY_AUTH_TOKEN" in task["secrets"]
    assert "--constraint constraints.txt" in task["setup"]
    assert "RAY_AUTH_MODE=token" in task["run"]
    assert "--dashboard-host 127.0.0.1" in task["run"]


def test_skypilot_takes_the_task() -> None:
    schemas = pytest.importorskip("sky.utils.schemas", reason="SkyPilot is in no group: it brings eighty packages")
    jsonschema = pytest.importorskip("jsonschema")
    task = content("skypilot/sweep.sky.yaml")
    jsonschema.Draft7Validator(schemas.get_task_schema()).validate(task)
    jsonschema.Draft7Validator(schemas.get_resources_schema()).validate(task["resources"])


def test_every_installer_has_the_same_version_of_uv() -> None:
    texts = [file.read_text("utf-8") for file in sorted(CLUSTER.rglob("*")) if file.is_file()]
    named = {word.strip(";") for text in texts for word in text.split() if word.startswith("uv==")}
    assert len(named) == 1
    assert json.dumps(texts).count(named.pop()) == 4


def test_every_named_version_of_ray_is_the_pinned_one() -> None:
    assert content("kuberay/cluster/raycluster.yaml")["spec"]["rayVersion"] == pinned("ray")
