"""What is said of a data set in the terminal."""

from pathlib import Path

from segdist.checking.dataset_text import dataset_line
from segdist.core.records import Finding, Sample, Severity
from segdist.datasets.shards import write_manifest, write_shard


def test_the_line_of_a_data_set_says_what_was_left_out_and_where_it_is_named(tmp_path: Path) -> None:
    shard = write_shard(str(tmp_path / "train-00000.parquet"), [(Sample("a", "a.png", (4, 4), split="train"), b"")])
    lost = [Finding("image-unreadable", Severity.ERROR, "no image", image=name) for name in ("b", "c")]
    repaired = Finding("exif-turned", Severity.REPAIRED, "turned", image="a")
    for findings, said in (([repaired, *lost], f"; left out: image-unreadable 2 ({tmp_path}/findings.json)"), ([], "")):
        dataset = write_manifest(str(tmp_path), "dataset", ("roof",), [shard], findings=findings)
        line = f"data      images train 1; classes roof; {dataset.manifest.content_hash}"
        assert dataset_line(dataset) == line + said
