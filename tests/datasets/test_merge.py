"""Merging: identical images once, contradictions reported, classes mapped, names kept apart, copies on one side."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.converting.merge_spec import data_spec
from segdist.core.errors import DataError, SpecError
from segdist.core.records import Finding, Instance, Sample, Severity
from segdist.datasets.build import build, here
from segdist.datasets.merge import OpenedImage, merged
from segdist.datasets.near_duplicates import look
from segdist.datasets.shards import Dataset
from segdist.formats.segdist import Format, Options


def picture(seed: int, *, noise: int = 0) -> np.ndarray[Any, Any]:
    """Coarse blocks; with noise, a near-duplicate of the same seed."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(20, 235, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.int64)
    return (pixels + np.random.default_rng(99).integers(-noise, noise + 1, pixels.shape)).clip(0, 255).astype(np.uint8)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def one(label: str, *box: float) -> Instance:
    x1, y1, x2, y2 = box or (0, 0, 10, 10)
    return Instance(label, None, (x1, y1, x2, y2))


def run(*samples: tuple[Sample, int], near_bits: int = 6) -> tuple[list[Sample], list[Finding]]:
    """Merge samples, each with the seed of its picture; one seed is one file's bytes."""
    findings: list[Finding] = []
    seen = {s.image_id: OpenedImage(f"{seed:064x}", look(picture(seed))) for s, seed in samples}
    pairs = [(number, sample) for number, (sample, _) in enumerate(samples)]
    return [s for _, s in merged(pairs, seen, findings.append, near_bits=near_bits)], findings


def sample(name: str, *instances: Instance, split: str = "", group: str = "") -> Sample:
    return Sample(name, f"/{name}", (64, 64), instances, split, group)


def test_identical_images_are_kept_once_with_the_instances_of_both() -> None:
    kept, findings = run(
        (sample("a", one("x"), one("y", 20, 20, 30, 30)), 1),
        (sample("b", one("x", 0, 0, 10, 10.2), one("z", 40, 40, 50, 50)), 1),
        (sample("c", one("x")), 2),
    )
    assert [s.image_id for s in kept] == ["a", "c"]
    assert [i.label for i in kept[0].instances] == ["x", "y", "z"]
    assert [(f.code, f.severity, f.image) for f in findings] == [("duplicate-merged", Severity.REPAIRED, "b")]
    assert "1 instance added" in findings[0].message


def test_where_identical_images_contradict_each_other_the_first_stays_and_it_is_reported() -> None:
    kept, findings = run((sample("a", one("x")), 1), (sample("b", one("y", 0, 0, 9, 10)), 1))
    assert [i.label for i in kept[0].instances] == ["x"]
    assert [f.code for f in findings] == ["duplicate-merged", "duplicate-conflict"]
    assert "x / y" in findings[1].message


def test_identical_images_of_different_splits_are_not_merged_because_whose_split_is_right_is_not_known() -> None:
    kept, _ = run((sample("a", one("x"), split="train"), 1), (sample("b", one("x"), split="val"), 1))
    assert [(s.image_id, s.split) for s in kept] == [("a", "train"), ("b", "val")]


def test_a_copy_without_a_split_takes_that_of_the_one_that_has_one() -> None:
    kept, _ = run((sample("a", one("x")), 1), (sample("b", one("x"), split="val"), 1))
    assert [(s.image_id, s.split) for s in kept] == [("a", "val")]


def test_images_that_could_not_be_opened_are_left_out() -> None:
    findings: list[Finding] = []
    assert merged([(0, sample("a"))], {}, findings.append, near_bits=6) == []


def _coco(folder: Path, names: dict[str, np.ndarray[Any, Any]], label: str, **more: Any) -> dict[str, Any]:
    folder.mkdir()
    images, annotations = [], []
    for number, (name, pixels) in enumerate(names.items()):
        (folder / name).write_bytes(png(pixels))
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        box = [2, 3, 10 + len(name), 8]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 99})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": label}], **more}
    (folder / "coco.json").write_text(json.dumps(content))
    return {"format": "coco", "path": str(folder)}


def _built(tmp_path: Path, sources: list[dict[str, Any]], **data: Any) -> tuple[Dataset, list[Sample]]:
    dataset = build(str(tmp_path / "out"), data_spec({"sources": sources, **data}, "a test"), here)
    source = Format(Options(path=str(tmp_path / "out")))
    return dataset, list(source.read(lambda finding: pytest.fail(str(finding))))


def test_sources_become_one_data_set_with_mapped_classes_and_no_file_hides_another(tmp_path: Path) -> None:
    licence = [{"name": "CC0"}]
    same = {f"{n}.png": picture(n) for n in range(6)}
    other = {f"{n}.png": picture(n + (n < 5) * 50) for n in range(6)}  # 5.png is the same image in both
    sources = [
        {**_coco(tmp_path / "a", same, "fissure", licenses=licence), "class_map": {"fissure": "crack"}},
        {**_coco(tmp_path / "b", other, "Riss"), "class_map": {"Riss": "crack"}, "text": "cracks", "licence": "own"},
    ]
    dataset, samples = _built(tmp_path, sources, split={"val": 0.2, "test": 0.2, "seed": 1})
    assert dataset.manifest.classes == ("crack",)
    assert dataset.manifest.licences == ("CC0", "own")
    assert len(samples) == 11
    assert Counter(s.image_id[:2] for s in samples) == {"0/": 6, "1/": 5}
    assert {s.text for s in samples} == {"", "cracks"}
    assert {s.split for s in samples} == {"train", "val", "test"}
    source = Format(Options(path=str(tmp_path / "out")))
    for made in samples:
        number, name = made.image_id.split("/")
        expected = png((same if number == "0" else other)[name])
        assert source.image_bytes(made) == expected
    assert dataset.manifest.findings["repaired"] == {"duplicate-merged": 1}


def test_near_duplicates_share_a_group_and_a_side(tmp_path: Path) -> None:
    pictures = {f"{n}.png": picture(n) for n in range(8)} | {"copy.png": picture(0, noise=3)}
    dataset, samples = _built(tmp_path, [_coco(tmp_path / "a", pictures, "crack")], split={"val": 0.3, "test": 0.3})
    by_name = {s.image_id: s for s in samples}
    assert by_name["copy.png"].group == by_name["0.png"].group
    assert by_name["copy.png"].split == by_name["0.png"].split
    assert dataset.manifest.findings["warning"] == {"near-duplicates": 1}


def test_classes_are_dropped_joined_or_refused_where_the_map_names_none(tmp_path: Path) -> None:
    pictures = {f"{n}.png": picture(n) for n in range(4)}
    kept = {**_coco(tmp_path / "a", pictures, "crack"), "class_map": {"crack": "damage"}}
    dropped = {
        **_coco(tmp_path / "b", {f"{n}.png": picture(n + 9) for n in range(3)}, "sky"),
        "class_map": {"sky": None},
    }
    dataset, samples = _built(tmp_path, [kept, dropped])
    assert dataset.manifest.classes == ("damage",)
    assert sum(not s.instances for s in samples) == 3
    with pytest.raises(DataError, match=r"class-unmapped.*Did you mean `crack`"):
        _built(tmp_path / "a", [{**kept, "class_map": {"crak": "x"}}])
    with pytest.raises(SpecError, match="no_such"):
        _built(tmp_path, [{**kept, "no_such": 1}])


def test_the_content_hash_does_not_depend_on_where_the_images_lay_or_in_which_order_they_came(tmp_path: Path) -> None:
    pictures = {f"{n}.png": picture(n) for n in range(5)}
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    first, _ = _built(tmp_path / "a", [_coco(tmp_path / "x", pictures, "c")])
    backwards = dict(reversed(pictures.items()))
    again, _ = _built(tmp_path / "b", [_coco(tmp_path / "y", backwards, "c")])
    assert first.manifest.content_hash == again.manifest.content_hash
    changed = {**pictures, "4.png": picture(40)}
    other, _ = _built(tmp_path / "c", [_coco(tmp_path / "z", changed, "c")])
    assert other.manifest.content_hash != first.manifest.content_hash
