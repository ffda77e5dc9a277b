"""What a dataset format promises: see `plugins.DatasetFormat`."""

import io
import pickle
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image
from pydantic import ValidationError

from segdist.core.plugins import DatasetFormat, dataset_format
from segdist.core.records import Finding
from segdist.core.spec import Strict

Draw = Callable[[Path], Mapping[str, object]]
"""Writes a small source into a folder and gives the options that read it: three images, at least one with an instance
where the format has labels."""


class FormatContract:
    """To inherit from, with `examples`: a small source of each format."""

    examples: ClassVar[Mapping[str, Draw]]
    """The formats, and what draws a source of each."""
    without_labels: ClassVar[Collection[str]] = ()
    """Formats that hold images only."""
    without_folder: ClassVar[Collection[str]] = ()
    """Formats whose option `path` is no folder that other tools might write into."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Called by pytest for each test."""
        if "format_name" in metafunc.fixturenames:
            metafunc.parametrize("format_name", sorted(self.examples))
        if "folder_format" in metafunc.fixturenames:
            metafunc.parametrize("folder_format", sorted({*self.examples} - {*self.without_folder}))

    @pytest.fixture
    def source(self, format_name: str, tmp_path: Path) -> DatasetFormat[Strict]:
        """The reader of a small source."""
        return _opened(format_name, self.examples[format_name](tmp_path))

    def test_images_have_unique_ids_and_the_size_that_they_decode_to(self, source: DatasetFormat[Strict]) -> None:
        samples = list(source.read(_fail))
        assert len(samples) == 3
        assert len({s.image_id for s in samples}) == 3
        for sample in samples:
            width, height = Image.open(io.BytesIO(source.image_bytes(sample))).size
            assert sample.size_hw == (height, width)
            assert sample.split in ("", "train", "val", "test")

    def test_masks_have_their_images_size_and_boxes_lie_inside(
        self, source: DatasetFormat[Strict], format_name: str
    ) -> None:
        instances = [(s, i) for s in source.read(_fail) for i in s.instances]
        assert bool(instances) != (format_name in self.without_labels)
        for sample, instance in instances:
            x1, y1, x2, y2 = instance.box_xyxy
            assert 0 <= x1 < x2 <= sample.size_hw[1]
            assert 0 <= y1 < y2 <= sample.size_hw[0]
            assert instance.label
            if instance.mask:
                assert instance.mask.size_hw == sample.size_hw
                assert instance.mask.area > 0

    def test_reading_twice_gives_the_same_samples_and_signature(self, source: DatasetFormat[Strict]) -> None:
        assert list(source.read(_fail)) == list(source.read(_fail))
        assert source.signature() == source.signature()

    def test_a_reader_works_after_travelling_to_another_process(self, source: DatasetFormat[Strict]) -> None:
        sample = next(iter(source.read(_fail)))
        assert pickle.loads(pickle.dumps(source)).image_bytes(sample) == source.image_bytes(sample)

    @pytest.mark.parametrize("other_tool", ["scene.geojson", "1.mat"])
    def test_files_that_look_like_other_annotations_are_named(
        self, folder_format: str, other_tool: str, tmp_path: Path
    ) -> None:
        options = self.examples[folder_format](tmp_path)
        (Path(str(options["path"])) / other_tool).write_text("{}")
        findings: list[Finding] = []
        samples = list(_opened(folder_format, options).read(findings.append))
        assert len(samples) == 3
        (found,) = [f for f in findings if f.file.endswith(other_tool)]
        assert found.code == "annotations-unread"
        assert {".geojson": "GeoJSON", ".mat": "MATLAB"}[Path(other_tool).suffix] in found.message

    def test_an_unknown_option_is_refused(self, source: DatasetFormat[Strict]) -> None:
        with pytest.raises(ValidationError, match="no_such_option"):
            type(source.options).model_validate({"no_such_option": 1})


def _opened(name: str, options: Mapping[str, object]) -> DatasetFormat[Strict]:
    module = dataset_format(name)
    return module.Format(module.Options.model_validate(options))


def _fail(finding: Finding) -> None:
    pytest.fail(str(finding))
