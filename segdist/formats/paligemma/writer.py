"""Writes JSON lines: what PaliGemma is asked about each image, and what it is to answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TextIO

from segdist.converting.losses import Losses
from segdist.core.plugins import DatasetWriter
from segdist.core.records import Instance, ReportFinding, Sample
from segdist.core.spec import Strict
from segdist.formats.paligemma.lines import CODEC
from segdist.nets.paligemma.answers import SEPARATOR, TokenObject, check_label, write
from segdist.nets.paligemma.locations import Bins, Scale, are_valid, decode_box, encode_box, widened
from segdist.nets.paligemma.prompts import questions


class WriterOptions(Strict):
    """What is asked, and how masks and boxes become tokens."""

    codec: str = "shipped"
    """What encodes masks: `shipped`, for models that learn from it; for published weights `vae-oid`, Google's, or
    the path or URI of that file; empty writes masks as their boxes."""
    prompt: str = ""
    """The question about a class; `{label}` is its name or a synonym. Empty: `segment {label}`, or `detect {label}`
    without a codec."""
    synonyms: dict[str, tuple[str, ...]] = {}
    """Further words for a class, asked for in turn from image to image; the answer names the class."""
    lines: Literal["class", "image"] = "class"
    """class: a line for each class and image, with an empty answer where there is none of it. image: one line asks for
    all classes."""
    loc_scale: Literal[1023, 1024] = 1023
    """What shares of the image's size are multiplied with. 1023: big_vision and transformers. 1024: many demos."""

    @property
    def question(self) -> str:
        """The template of questions."""
        return self.prompt or ("segment {label}" if self.codec else "detect {label}")


class Writer(DatasetWriter):
    """Absent classes are asked for too, so that a model learns to say nothing."""

    Options: ClassVar[type[Strict]] = WriterOptions

    def __init__(self, folder: Path, classes: Sequence[str], options: WriterOptions, report: ReportFinding) -> None:
        self._folder, self._losses = folder, Losses("PaliGemma", report)
        self._options = options
        self._classes = [check_label(name) for name in classes]
        self._questions = questions(options.question, options.synonyms, classes)
        self._codec, self._digest = _opened(options.codec)
        self._streams: dict[str, TextIO] = {}
        self._images = 0
        (folder / "images").mkdir()

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Write an image and its lines."""
        (self._folder / "images" / file_name).write_bytes(image_bytes)
        objects = self._objects(sample)
        stream = self._stream(sample.split)
        for prefix, labels in self._asked():
            suffix = write(one for one in objects if one.label in labels)
            row = {"image": f"images/{file_name}", "prefix": prefix, "suffix": suffix}
            row |= {CODEC: self._digest} if "<seg" in suffix else {}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._images += 1

    def close(self) -> None:
        """Close the file of each split."""
        for stream in self._streams.values():
            stream.close()

    def _asked(self) -> list[tuple[str, set[str]]]:
        """Each question about the next image, and the classes that its answer names."""
        asked = {label: texts[self._images % len(texts)] for label, texts in self._questions.items()}
        if self._options.lines == "class":
            return [(text, {label}) for label, text in asked.items()]
        return [(self._options.question.replace("{label}", SEPARATOR.join(self._classes)), set(self._classes))]

    def _objects(self, sample: Sample) -> list[TokenObject]:
        """What can be written of an image, every object once; what is lost is reported."""
        objects: dict[TokenObject, int] = {}
        plain = dict(self._losses.plain(sample))
        codes = self._codes(plain)
        for number, instance in plain.items():
            self._report_mask_loss(sample, number, instance)
            one = TokenObject(instance.label, self._bins(sample, number, instance), codes.get(number))
            if one in objects:
                message = f"its tokens are those of annotation {objects[one]}; readers keep one of two equal objects"
                self._losses("duplicate-dropped", message, sample, number, left_out=True)
            objects.setdefault(one, number)
        return list(objects)

    def _codes(self, instances: Mapping[int, Instance]) -> dict[int, tuple[int, ...]]:
        """The sixteen codes of each mask."""
        if self._codec is None:
            return {}
        from segdist.nets.paligemma.objects import encode_masks

        masked = {number: i.mask for number, i in instances.items() if i.mask is not None and i.mask.area}
        return dict(zip(masked, encode_masks(list(masked.values()), self._codec), strict=True))

    def _report_mask_loss(self, sample: Sample, number: int, instance: Instance) -> None:
        if instance.mask is None:
            return
        if self._codec is None:
            self._losses("mask-dropped", "the mask was written as its box", sample, number)
        else:
            message = "the mask was written as sixteen codes over its box; `round_trip` says how well masks come back"
            self._losses("mask-coded", message, sample, number)
            self._losses.box_beside_mask(sample, number)

    def _bins(self, sample: Sample, number: int, instance: Instance) -> Bins:
        """The location tokens: of the mask's own box where codes stand for the mask, which are cropped to it."""
        is_coded = self._codec is not None and instance.mask is not None and instance.mask.area
        box_xyxy = instance.mask.box_xyxy if is_coded and instance.mask else instance.box_xyxy
        scale: Scale = self._options.loc_scale
        bins = encode_box(box_xyxy, size_hw=sample.size_hw, scale=scale)
        if not are_valid(bins):
            message = "it is smaller than a 1,024th of the image and was made that large"
            self._losses("box-widened", message, sample, number)
            bins = widened(bins)
        back = decode_box(bins, size_hw=sample.size_hw, scale=scale)
        if max(abs(a - b) for a, b in zip(back, box_xyxy, strict=True)) > 1e-3:
            self._losses("box-rounded", "its sides were rounded to 1,024 steps", sample, number)
        return bins

    def _stream(self, split: str) -> TextIO:
        if split not in self._streams:
            self._streams[split] = (self._folder / f"{split or 'all'}.jsonl").open("w", encoding="utf-8")
        return self._streams[split]


def _opened(codec: str) -> tuple[Any, str]:
    """The codec and its digest; None and "" for none."""
    if not codec:
        return None, ""
    from segdist.nets.paligemma.codec_files import digest, open_codec

    return open_codec(codec), digest(codec)
