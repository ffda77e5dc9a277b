"""Every check on data: its code, how severe it is, and what it means. `segdist data validate --codes` prints this.

Severities: an **error** stops a run (or, with `on_error: skip`, the thing is left out); **repaired** means the meaning
was plain and they are used repaired; **skipped** means one annotation is left out; a **warning** changes nothing.
COCO's `area` is never used: areas are counted from the masks. One that is missing or far off counts as repaired.
"""

from dataclasses import dataclass

from segdist.core.records import Finding, Severity

Noted = tuple[str, Severity, str]
"""Code, severity and message of a finding whose place is not known yet."""


@dataclass(frozen=True)
class Code:
    """One check.

    Attributes:
        severity: of its findings.
        meaning: what is wrong, and what becomes of it.
    """

    severity: Severity
    meaning: str


_E, _R, _S, _W = Severity.ERROR, Severity.REPAIRED, Severity.SKIPPED, Severity.WARNING

CODES: dict[str, Code] = {
    # files
    "source-unreadable": Code(_E, "The annotation file or folder is missing, damaged, or of another format."),
    "format-ambiguous": Code(_W, "A folder holds several formats; the one that can hold most was read."),
    "encoding-repaired": Code(_R, "The file is not UTF-8; it was read as UTF-16, or in the old code page of Windows."),
    "annotations-lost": Code(_S, "All annotations of an image are wrong; the image is left out, not taken as empty."),
    "annotations-unread": Code(_W, "Files beside the images look like annotations of another kind and were not read."),
    "split-path-missing": Code(_E, "A path of data.yaml names no folder with images; a warning outside of train."),
    "split-path-repaired": Code(_R, "A path of data.yaml is not there as written; the folder it ends in was read."),
    "label-file-missing": Code(_W, "An image has no label file or mask; it is taken as one without objects."),
    "line-malformed": Code(_E, "A line of labels has neither a box nor a polygon in it."),
    "row-malformed": Code(
        _E, "An annotation file, row or line cannot be read or lacks what it must have; its image is left out."
    ),
    "object-malformed": Code(_E, "An object in the answer of a JSON line is cut off or out of order."),
    "result-malformed": Code(_E, "An entry of another tool's results is no object with image, class, score and place."),
    "task-unread": Code(_S, "A line asks for neither boxes nor masks and was left out."),
    "folder-unread": Code(_W, "A folder with annotations is no train, valid or test folder and was not read."),
    "file-unread": Code(_W, "An annotation file beside the others holds no boxes or masks and was not read."),
    "file-broken": Code(_E, "A link that leads nowhere or to a folder, a pipe, a device, or a closed folder."),
    "split-without-annotations": Code(_E, "A split has no annotation at all; a warning outside of train."),
    # classes
    "category-malformed": Code(_E, "A category is no object with `id` and `name`."),
    "category-id-duplicate": Code(_E, "Two categories have one id."),
    "category-name-duplicate": Code(_R, "Two categories have one name; they are read as one class."),
    "category-id-differs": Code(_R, "A class has another id in another file; classes are matched by name."),
    "category-unknown": Code(_E, "An annotation names a category that is not listed."),
    "class-id-invalid": Code(_E, "A class id is no whole number."),
    "class-name-reserved": Code(_E, "A class name is empty, or holds what would break text answers (<loc, ` ; `)."),
    "class-untrained": Code(_W, "A class has instances in val or test and none in train: nobody can learn it."),
    "class-name-spelling": Code(
        _R, "Class names differ in case, blanks or Unicode form only; the first spelling is taken."
    ),
    # images
    "image-malformed": Code(_E, "An image is listed without `id` or `file_name`."),
    "image-id-duplicate": Code(_E, "Two images have one id."),
    "image-name-duplicate": Code(_E, "A file is listed twice."),
    "image-size-invalid": Code(_E, "The listed height and width are no whole numbers above 0, or too large."),
    "image-size-differs": Code(_E, "The image has another size than the one it was annotated at."),
    "image-missing": Code(_E, "There is no such file below the source."),
    "image-renamed": Code(_R, "The file was found under another spelling, ending or folder than the one written."),
    "image-unreadable": Code(_E, "The file is empty, truncated, no image, or claims too many pixels."),
    "image-unlisted": Code(_W, "Image files lie beside the annotations but are not listed; they are not read."),
    "image-animated": Code(_W, "The image has several frames or pages; the first is used."),
    "image-transparent": Code(_W, "The image has transparent pixels; its message says what was read."),
    "pixels-scaled": Code(_W, "Pixels of more than eight bits became eight by another range than their type's."),
    "image-unread": Code(_W, "A file looks like an image but is in no format or under no name that is read."),
    "image-crowded": Code(_W, "An image has more than 1,000 annotations; COCO's evaluator sees the best 100."),
    "image-too-crowded": Code(_E, "The annotations of an image are longer than any image's; it was left out."),
    "exif-turned": Code(_R, "Annotated on the stored pixels of a photo that EXIF turns; turned with it."),
    "exif-ambiguous": Code(_W, "A square photo with an EXIF orientation: its annotations may be turned."),
    # annotations
    "annotation-malformed": Code(_E, "An annotation is no object."),
    "annotation-id-duplicate": Code(_E, "Two annotations have one id; the second is left out."),
    "annotation-duplicate": Code(_S, "An image has the same annotation (class and outline) twice; one is kept."),
    "area-missing": Code(_R, "Annotations have no `area`; it is counted from their masks and boxes."),
    "annotation-repaired": Code(_R, "The annotation was written unusually, clipped or repaired; see its message."),
    "image-unknown": Code(_E, "An annotation names an image that is not listed."),
    "id-type": Code(_R, "Ids are written as text or decimals; they were matched by value."),
    "coordinates-not-relative": Code(_E, "A coordinate that must be a share of the image (0..1) is far outside."),
    "coordinates-normalised": Code(_E, "The coordinates of a file lie in 0..1: shares of the image, not pixels."),
    "box-corners": Code(_E, "The boxes of a file are corners (x1, y1, x2, y2), not (x, y, width, height)."),
    "number-invalid": Code(_E, "A coordinate is missing, no number, or not finite."),
    "segmentation-malformed": Code(_E, "`segmentation` is neither a list of polygons nor an RLE."),
    "polygon-odd-length": Code(_E, "A polygon has an odd number of coordinates."),
    "polygon-too-large": Code(_E, "The polygons of a mask have more points or a longer outline than any object has."),
    "polygon-too-short": Code(_S, "A polygon has fewer than three points."),
    "polygon-outside": Code(_S, "A polygon lies outside its image."),
    "polygon-crosses-itself": Code(_W, "A polygon crosses itself; its mask may not be what was drawn."),
    "rle-malformed": Code(_E, "An RLE has another size than its image, or counts that do not fill it."),
    "mask-unreadable": Code(_E, "A mask image is missing, damaged, or has another size than its image."),
    "mask-palette": Code(_R, "A mask's numbers were read from its grey values or its alpha channel; see its message."),
    "mask-inverted": Code(_W, "A binary mask covers most of its image and its whole border: is black the object?"),
    "mask-lossy": Code(_E, "A mask of numbers or colours is stored as JPEG, which changes them."),
    "mask-not-binary": Code(_E, "A binary mask has more than two values; repaired where they lie near 0 and 255."),
    "masks-read-as-boxes": Code(_W, "Masks in <seg> tokens were read as their boxes: they need a pseudo-label."),
    "codec-differs": Code(_E, "Masks in <seg> tokens were written with another codec than the one named."),
    "instance-unknown": Code(_E, "A mask image holds an object that its table does not list."),
    "mask-empty": Code(_S, "A mask covers no pixel of the image."),
    "mask-missing": Code(_W, "An annotation has a box but no mask, where others have masks: it needs a pseudo-label."),
    "box-malformed": Code(_E, "A box has not four numbers, or a negative side."),
    "box-empty": Code(_S, "A box covers nothing of the image."),
    "crowd-polygon": Code(_W, "A crowd has a polygon instead of an RLE; it is kept as a crowd."),
    "box-off-by-one": Code(_W, "A Pascal VOC box begins at 0 where the first pixel is said to be 1: all are shifted."),
    "object-difficult": Code(_S, "An object is marked difficult and was left out, as asked."),
    "masks-unread": Code(_W, "Masks of classes stand beside boxes of objects; whose pixels are whose is not known."),
    "image-unannotated": Code(_E, "A frame lacks its instance frame or metadata and was left out."),
    "class-ignored": Code(_S, "A shape has a label that the tool reserves for what is no object; it was left out."),
    "shape-without-area": Code(_S, "A point or line covers no area and was left out."),
    "shape-unknown": Code(_E, "A shape is of a kind that is not known."),
    "colour-duplicate": Code(_E, "Two objects of one frame have the same colour."),
    "instance-unlisted": Code(_W, "Something in the frames is no object of the object table and was not read."),
    # what a format that is written cannot hold
    "box-beside-masks": Code(_W, "Boxes without masks stand beside polygons; trainers of masks misread them."),
    "box-dropped": Code(_S, "The format holds masks only; a box without one was left out."),
    "box-from-mask": Code(_W, "The format holds no box beside a mask; it comes back as the mask's own."),
    "box-rounded": Code(_W, "The format rounds boxes."),
    "box-widened": Code(_W, "A box was smaller than the format's steps and was made one step large."),
    "class-dropped": Code(_W, "The format holds one class only."),
    "crowd-dropped": Code(_S, "The format has no crowds; the region was left out."),
    "duplicate-dropped": Code(_S, "Two instances are the same in this format; one was written."),
    "instance-merged": Code(_W, "The format does not tell objects of one class apart."),
    "mask-coded": Code(_W, "The format holds masks as sixteen codes; the round trip says how well they came back."),
    "mask-dropped": Code(_W, "The format holds boxes only; a mask was written as its box."),
    "overlap-dropped": Code(_W, "The format gives each pixel to one object; a larger one lost pixels to a smaller."),
    "parts-bridged": Code(_W, "The format holds one polygon an object; parts and holes are joined by bridges."),
    "score-dropped": Code(_W, "The format has no scores; a pseudo-label looks like a human's there."),
    # the whole
    "image-in-two-splits": Code(_W, "Identical images are in several splits: a leak."),
    "near-duplicate-in-two-splits": Code(_W, "Images that look alike are in several splits: perhaps a leak."),
    "source-in-two-splits": Code(_W, "Copies of one source image are in several splits: perhaps a leak."),
    "near-duplicates": Code(_W, "Images look alike; they share a split group."),
    "duplicate-merged": Code(_R, "Identical images were merged into one; their annotations agree or were united."),
    "duplicate-conflict": Code(_W, "Identical images are annotated differently; the first source's labels are kept."),
    "class-unmapped": Code(_E, "A source's class map names a class that the source does not have."),
}


def declared(code: str) -> str:
    """The same code.

    Raises:
        ValueError: it is not in `CODES`.
    """
    if code not in CODES:
        raise ValueError(f"a finding's code must be declared in segdist/reading/codes.py, but `{code}` does not")
    return code


def finding(
    code: str, message: str, *, file: str = "", image: str = "", annotation: str = "", severity: Severity | None = None
) -> Finding:
    """A finding with the severity that its code has, unless the caller knows better; the only way to make one.

    Raises:
        ValueError: there is no such code.
    """
    return Finding(
        declared(code), severity or CODES[code].severity, message, file=file, image=image, annotation=annotation
    )
