"""What `kubectl apply -k` would send, against the schemas of Kubernetes and of KubeRay."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from segdist.sweepfile.loading import load
from tests.cluster.files import CLUSTER, program, version

SCHEMAS = Path("../shared/schemas")
FOLDERS = ["cluster", "job"]


@cache
def built(folder: str) -> list[dict[str, Any]]:
    done = program("kubectl", "kustomize", CLUSTER / "kuberay" / folder)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(folder: str, kind: str) -> dict[str, Any]:
    (found,) = (one for one in built(folder) if one["kind"] == kind)
    return found


def cluster_spec(folder: str) -> dict[str, Any]:
    found: dict[str, Any]
    found = (
        of_kind(folder, "RayCluster")["spec"]
        if folder == "cluster"
        else of_kind("job", "RayJob")["spec"]["rayClusterSpec"]
    )
    return found


def pods(folder: str) -> Iterator[dict[str, Any]]:
    """What runs in pods: the specification of each."""
    spec = cluster_spec(folder)
    yield spec["headGroupSpec"]["template"]["spec"]
    for group in spec["workerGroupSpecs"]:
        yield group["template"]["spec"]
    if folder == "job":
        yield of_kind("job", "RayJob")["spec"]["submitterPodTemplate"]["spec"]


def strict(schema: Any) -> Any:
    """The schema, with unknown fields refused."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(part) for key, part in schema.items()}
    is_closed = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    return {**inner, "additionalProperties": False} if is_closed and "type" in schema else inner


@pytest.mark.parametrize(("folder", "kind"), [("cluster", "RayCluster"), ("job", "RayJob")])
def test_kuberay_knows_every_field(folder: str, kind: str) -> None:
    file = SCHEMAS / f"kuberay-{kind.lower()}s-v1.json"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    schema, manifest = strict(json.loads(file.read_text("utf-8"))), {**of_kind(folder, kind), "metadata": {}}
    whole = {**schema, "properties": {**schema["properties"], "metadata": {}}}
    asked = jsonschema.Draft202012Validator(whole)
    asked.validate(manifest)
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        asked.validate({**manifest, "spec": {**manifest["spec"], "surprise": 1}})


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_knows_every_field_of_what_is_its_own_and_of_every_pod(folder: str) -> None:
    version_here = kubernetes_validate.latest_version()
    core = [one for one in built(folder) if not one["apiVersion"].startswith("ray.io/")]
    assert {one["kind"] for one in core} == {"Namespace", "ConfigMap", "NetworkPolicy"}
    whole: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec} for spec in pods(folder)
    ]
    one: Any
    for one in [*core, *whole]:
        kubernetes_validate.validate(one, version_here, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**whole[0], "spec": {**whole[0]["spec"], "surprise": 1}}, version_here, strict=True
        )


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_is_what_a_restricted_namespace_lets_in(folder: str) -> None:
    for spec in pods(folder):
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    assert cluster_spec(folder)["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_has_the_image_of_this_version(folder: str) -> None:
    images = {container["image"] for spec in pods(folder) for container in spec["containers"]}
    assert {image.rpartition(":")[2] for image in images} == {f"{version()}-cuda"}
    assert len(images) == 1


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_token_is_asked_for_the_head_trains_nothing_and_workers_grow(folder: str) -> None:
    spec = cluster_spec(folder)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"]
    for group in spec["workerGroupSpecs"]:
        assert 1 <= group["minReplicas"] < group["maxReplicas"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_secrets_are_named_and_none_is_held(folder: str) -> None:
    assert not [one for one in built(folder) if one["kind"] == "Secret"]
    settings = next(one for one in built(folder) if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "segdist")
    assert set(settings["data"]) == {"SEGDIST_STORAGE", "MLFLOW_TRACKING_URI", "AWS_DEFAULT_REGION"}
    head, *workers = [spec["containers"][0].get("envFrom", []) for spec in pods(folder)]
    assert [one["secretRef"]["name"] for one in head if "secretRef" in one] == [
        "segdist-storage", "segdist-tracking", "segdist-hub",
    ]  # fmt: skip
    assert workers[0] == head


def test_the_jobs_cluster_is_the_other_one_and_runs_the_sweep_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_spec("job") == cluster_spec("cluster")
    assert not [one for one in built("job") if one["kind"] == "RayCluster"]
    job = of_kind("job", "RayJob")["spec"]
    mounts = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    place = next(mount["mountPath"] for mount in mounts if mount["name"] == "sweep")
    assert job["entrypoint"] == f"segdist run {place}/sweep.yaml"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert load(CLUSTER / "kuberay/job/sweep.yaml").tracking.uri == "http://mlflow:5000"
