"""Nothing that a sweep keeps in MLflow holds a secret."""

import sys
from pathlib import Path

import pytest

from segdist.core.errors import BackendError
from segdist.tracking import Tracker
from tests.tracking.conftest import DATASET

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
URI = f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/x"


def test_no_byte_of_the_database_or_the_artifacts_is_secret(
    tracker: Tracker, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["segdist", "run", "x.yaml", f"storage={URI}"])
    file = tmp_path / "x.yaml"
    file.write_bytes(f"name: x  # ä {URI}\n".encode("utf-16"))
    parent = tracker.start_sweep(
        "x",
        "f" * 16,
        spec_text=f'{{"name": "x", "storage": "{URI}"}}',
        spec_file=str(file),
        tags={"note": URI, "list": [URI]},
        params={"uri": URI, "nested": {"uri": [URI]}, "password": SECRET},
        dataset=DATASET,
    )
    trial = tracker.start_trial(parent, "x_1", number=0, params={"uri": URI}, tags={"uri": {"token": SECRET}})
    tracker.tag(trial, "where", URI)
    tracker.log_json(trial, {"a": [URI], "secret": SECRET}, "a.json")
    tracker.log_text(trial, f"Bearer {SECRET}", "a.txt")
    tracker.end(trial, "FAILED", reason=f"cannot read {URI}")
    files = [place for place in storage.rglob("*") if place.is_file()]
    assert len(files) > 4
    for place in files:
        content = place.read_bytes()
        assert SECRET.encode() not in content, place
        assert b"AKIAIOSFODNN7EXAMPLE" not in content, place
    record = tracker.sweep(parent)
    assert record.spec == {"name": "x", "storage": "s3://***@bucket/x"}
    assert record.file_text == "name: x  # ä s3://***@bucket/x\n"
    assert record.tags["segdist.command"] == "segdist run x.yaml storage=s3://***@bucket/x"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:pa55word@127.0.0.1:9", "MLFLOW_TRACKING_PASSWORD"),
        ("https://host/?token=pa55word", "MLFLOW_TRACKING_TOKEN"),
        ("postgresql://me:pa55word@127.0.0.1:9/mlflow", "PGPASSWORD"),
    ],
)
def test_an_address_with_credentials_is_refused_with_the_right_way(uri: str, said: str) -> None:
    with pytest.raises(BackendError, match=said) as caught:
        Tracker(uri).check()
    assert "pa55word" not in str(caught.value)
