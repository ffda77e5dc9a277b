"""Hugging Face data sets out: one Parquet file a split with the features in it, and a card that names the splits."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from segdist.core.json_values import JsonDict
from segdist.core.plugins import DatasetWriter
from segdist.core.records import ReportFinding, Sample
from segdist.core.spec import Strict

ROWS_PER_GROUP = 32
"""Rows that a reader has to hold at once."""
_SPLITS = {"train": "train", "val": "validation", "test": "test", "": "all"}
_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_OBJECTS = {
    "id": pa.int64(),
    "category": pa.int64(),
    "bbox": pa.list_(pa.float64()),
    "area": pa.float64(),
    "segmentation": _RLE,
    "iscrowd": pa.bool_(),
    "score": pa.float64(),
}
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("objects", pa.struct([(name, pa.list_(kind)) for name, kind in _OBJECTS.items()])),
    ]
)


class Writer(DatasetWriter):
    """Writes masks as run lengths, so that every one comes back to the pixel; `datasets.load_dataset` reads it."""

    class Options(Strict):
        """There is nothing to choose."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        options: Options,  # noqa: ARG002 - there are none
        report: ReportFinding,  # noqa: ARG002 - nothing is lost
    ) -> None:
        self._folder, self._ids = folder / "data", {name: number for number, name in enumerate(classes)}
        self._folder.mkdir()
        metadata = {"huggingface": json.dumps({"info": {"features": features(classes)}})}
        self._schema = _SCHEMA.with_metadata(metadata)
        self._open: dict[str, list[dict[str, object]]] = {}
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._licences: Sequence[str] = ()

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Keep a row; a full group is written."""
        rows = self._open.setdefault(sample.split, [])
        rows.append(self._row(sample, image_bytes, file_name))
        if len(rows) == ROWS_PER_GROUP:
            self._flush(sample.split)

    def state_licences(self, names: Sequence[str]) -> None:
        """Keep the licences for the card."""
        self._licences = names

    def close(self) -> None:
        """Write what is left, then the card."""
        for split in list(self._open):
            self._flush(split)
        for writer in self._writers.values():
            writer.close()
        (self._folder.parent / "README.md").write_text(self._card(), encoding="utf-8")

    def _row(self, sample: Sample, image_bytes: bytes, file_name: str) -> dict[str, object]:
        listed = [
            one.to_coco(number=number, image_id=0, category_id=self._ids[one.label])
            for number, one in enumerate(sample.instances, 1)
        ]
        columns: dict[str, list[object]] = {name: [one.get(name) for one in listed] for name in _OBJECTS}
        columns["category"] = [one["category_id"] for one in listed]
        columns["segmentation"] = [one["segmentation"] or None for one in listed]
        columns["iscrowd"] = [bool(one["iscrowd"]) for one in listed]
        columns["score"] = [one.score for one in sample.instances]
        return {
            "image": {"bytes": image_bytes, "path": file_name},
            "image_id": sample.image_id,
            "height": sample.size_hw[0],
            "width": sample.size_hw[1],
            "objects": columns,
        }

    def _flush(self, split: str) -> None:
        if split not in self._writers:
            file = self._folder / f"{_SPLITS[split]}-00000-of-00001.parquet"
            self._writers[split] = pq.ParquetWriter(file, self._schema)
        self._writers[split].write_table(pa.Table.from_pylist(self._open.pop(split), schema=self._schema))

    def _card(self) -> str:
        """What `load_dataset` needs to know, in the front matter of README.md."""
        files = [{"split": _SPLITS[s], "path": f"data/{_SPLITS[s]}-*"} for s in _SPLITS if s in self._writers]
        content: dict[str, object] = {"configs": [{"config_name": "default", "data_files": files}]}
        if self._licences:
            content = {"license": "other", "license_name": "; ".join(self._licences), **content}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        return f"---\n{text}---\nImages with `objects`, as COCO annotates them; `segmentation` is run lengths.\n"


def features(classes: Sequence[str]) -> JsonDict:
    """The features of the rows, as `datasets` reads them from a schema; `Sequence` is known to old and new versions."""

    def listed(kind: str | dict[str, object]) -> JsonDict:
        feature = {"dtype": kind, "_type": "Value"} if isinstance(kind, str) else kind
        return {"feature": feature, "_type": "Sequence"}

    rle = {"size": listed("int32"), "counts": {"dtype": "string", "_type": "Value"}}
    return {
        "image": {"_type": "Image"},
        "image_id": {"dtype": "string", "_type": "Value"},
        "height": {"dtype": "int32", "_type": "Value"},
        "width": {"dtype": "int32", "_type": "Value"},
        "objects": {
            "id": listed("int64"),
            "category": listed({"names": list(classes), "_type": "ClassLabel"}),
            "bbox": listed(listed("float64")),
            "area": listed("float64"),
            "segmentation": [rle],  # a `Sequence` of an object would be an object of lists
            "iscrowd": listed("bool"),
            "score": listed("float64"),
        },
    }
