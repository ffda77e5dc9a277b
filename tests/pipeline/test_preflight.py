"""What is looked at on the nodes before a sweep starts, and how what is missing is told."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from segdist.core.errors import BackendError, StorageError
from segdist.core.provenance import installed
from segdist.pipeline import preflight
from segdist.pipeline.preflight import Answer, check_from_cluster
from tests.pipeline.conftest import SWEEP


@pytest.fixture
def sweep_file(tmp_path: Path) -> str:
    """A sweep that lacks nothing."""
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(storage=tmp_path / "storage"))
    return str(tmp_path / "tiny.yaml")


def problems(asked: list[tuple[str, list[str]]], wanted: dict[str, str] | None = None) -> list[str]:
    """What is wrong, a line each."""
    with pytest.raises(BackendError, match="The cluster must be fit for the sweeps") as caught:
        check_from_cluster(asked, wanted or {})
    return str(caught.value).splitlines()[1:]


def test_what_is_there_is_said_and_nothing_is_left_behind(
    cluster: None, sweep_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-0123456789")
    has = installed()
    check_from_cluster(
        [(sweep_file, []), (sweep_file, ["name=other"])], {what: has[what] for what in ("segdist", "code of segdist")}
    )
    said = capsys.readouterr().out
    for line in (
        "1 node",
        f"{tmp_path / 'storage'}: seen and written from 1 node",
        "data      of tiny",
        "data      of other",
    ):
        assert line in said
    assert said.count("tracking ") == 1, "both have the same"
    assert "HF_TOKEN" in said
    assert "planted" not in said
    assert not list((tmp_path / "storage").glob(".segdist-*"))


def test_everything_that_is_wrong_is_named_at_once(
    cluster: None, sweep_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SITE_KEY", raising=False)
    (tmp_path / "file").write_text("")
    changes = [
        "tracking.uri=http://127.0.0.1:9",
        "resources.environment=[SITE_KEY]",
        "data.sources=[{format: coco, path: /not/there}]",
        f"storage={tmp_path / 'file'}",
    ]
    wanted = {"segdist": "9.9.9", "code of segdist": "abc", "tiny-segmenter": "1.0"}
    said = problems([(sweep_file, changes)], wanted)
    for problem in (
        f"- the driver's node has code of segdist {installed()['code of segdist']}, not abc",
        "- the driver's node has segdist 0.1.0, not 9.9.9",
        "- the driver's node lacks tiny-segmenter",
        "- the driver's environment lacks SITE_KEY, which `resources.environment` names",
        "- tiny: No MLflow server answers at http://127.0.0.1:9",
        "- tiny: There is no /not/there",
        f"- the driver's node cannot use {tmp_path / 'file'}: Cannot write",
    ):
        assert [line for line in said if line.startswith(problem)], f"{problem} is not in {said}"


def test_nodes_that_differ_or_see_another_place_or_say_nothing_are_named(
    cluster: None, sweep_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, place = installed(), str(tmp_path / "storage")
    answers = [
        Answer("10.0.0.1", here),
        Answer("10.0.0.2", {**here, "ray": "2.50.0", "torch": here["torch"].partition("+")[0] + "+cpu"}),
        Answer("10.0.0.3", here, {place: "it is another place there"}),
        Answer("10.0.0.4", error="does not answer within 120 seconds"),
        *(Answer(f"10.0.1.{n}", {**here, "mlflow": ""}) for n in range(9)),
    ]
    monkeypatch.setattr(preflight, "_asked", lambda *_: iter(answers))
    assert problems([(sweep_file, [])]) == [
        f"- node 10.0.0.2 has ray 2.50.0, not {here['ray']}",
        f"- node 10.0.0.3 cannot use {place}: it is another place there",
        "- node 10.0.0.4 does not answer within 120 seconds",
        f"- each of the nodes 10.0.1.0, 10.0.1.1, 10.0.1.2, 10.0.1.3 and 5 others lacks mlflow {here['mlflow']}",
        preflight._FIXES["versions"],
        preflight._FIXES["storage"],
    ]


def test_nodes_of_one_address_are_told_apart() -> None:
    nodes = [
        {"NodeManagerAddress": a, "NodeID": f"{n}" * 56} for n, a in enumerate(("10.0.0.1", "10.0.0.2", "10.0.0.2"))
    ]
    assert [name for name, _ in preflight._named(nodes)] == ["10.0.0.1", "10.0.0.2 (11111111)", "10.0.0.2 (22222222)"]


def test_a_node_asks_itself_with_what_the_driver_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANTED", raising=False)
    mark = tmp_path / ".segdist-1"
    ask = preflight._question({"PLANTED": "1"}, {str(tmp_path): str(mark)})
    has, lacks, error = ask()
    assert (has["segdist"], error) == ("0.1.0", "")
    assert lacks == {str(tmp_path): "it is another place there: what the driver wrote is not in it"}
    mark.write_text("")
    assert ask()[1] == {}

    def closed(place: str) -> None:
        raise StorageError("Cannot write there.")

    monkeypatch.setattr("segdist.core.storage.check_writable", closed)
    assert ask()[1] == {str(tmp_path): "Cannot write there."}


def test_a_node_without_segdist_can_still_say_so(tmp_path: Path) -> None:
    (tmp_path / "question").write_bytes(cloudpickle.dumps(preflight._question({}, {})))
    code = "import pickle, sys; sys.modules['segdist'] = None; print(pickle.load(open('question', 'rb'))())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "has no segdist that could answer: No module named" in done.stdout, done.stderr
