"""What a promptable family is shown and learns; imports no torch."""

from typing import Literal

from pydantic import Field, PositiveFloat

from segdist.core.plugins import ModelOptions

LOSSES = {"focal": 20.0, "dice": 1.0, "iou": 1.0, "class": 1.0}
"""SAM's own weights (Kirillov et al. 2023, appendix A); `class` is zero but for `prompt: everything`."""


class PromptableOptions(ModelOptions):
    """How it is prompted, in training and at prediction."""

    prompt: Literal["box", "point", "mixed", "class", "everything"] = "box"
    """box: it is shown a box an object. point: points on and off the object; of a box alone it sees the centre. mixed:
    boxes, points or both, in turn at random. class: it learns a prompt for each class and needs to be shown nothing.
    everything: it is shown a grid of points and finds the whole object under each (SAOM, Khan et al. 2024), and its
    class; needs to be shown nothing either."""
    masks: Literal["one", "best_of_three"] = "one"
    """best_of_three draws three masks a prompt and takes the one it trusts most; one is better for boxes."""
    fit_box: bool = False
    """Boxes are tight: nothing of a mask lies outside its box, and where it falls short of the sides, the network's
    second thoughts count too. For photographs labelled from boxes that were drawn with care."""
    average_boxes: bool = False
    """Each box is asked about five times, moved by 5 % of its sides, and the answers' mean is the mask: steadier, above
    all for small objects, at five times the decoder's time. How well the answers agree is the mask's stability."""
    class_tokens: int = Field(default=4, gt=0, le=256)
    """Length of the learned prompt of a class."""
    prompts_per_image: int = Field(default=16, gt=0, le=1000)
    """Most objects of an image that one training step draws from it, at random."""
    box_jitter: float = Field(default=0.1, ge=0, lt=0.5)
    """In training each side of a box moves by up to this share of its width or height: no user draws perfect boxes."""
    point_share: float = Field(default=0.2, ge=0, le=1)
    """With `prompt: box`, share of the training steps in which every box comes with a point on the object."""
    points_per_object: int = Field(default=3, gt=0, le=100)
    """With `prompt: point` or `mixed`, most points an object: the first lies on it, the others on or off."""
    point_jitter: float = Field(default=0.0, ge=0, lt=0.5)
    """In training each point moves by up to this share of the object's width and height: nobody clicks exactly."""
    grid_side: int = Field(default=32, gt=0, le=256)
    """With `prompt: everything`, points along each side of the grid."""
    grid_points_per_object: int = Field(default=1, gt=0, le=100)
    """With `prompt: everything`, points that teach an object: 1 is the nearest alone, as SAOM; more are further points
    of the grid on the object, drawn anew in each step."""
    min_predicted_iou: float = Field(default=0.5, ge=0, le=1)
    """With `prompt: everything`, masks whose predicted IoU is lower are left out."""
    min_stability: float = Field(default=0.5, ge=0, le=1)
    """With `prompt: everything`, masks are left out that keep a smaller share of their area when the threshold on the
    logits goes from -1 to 1."""
    max_overlap: float = Field(default=0.7, gt=0, le=1)
    """With `prompt: everything`, of two masks with a larger IoU the one with the lower predicted IoU is left out."""
    embeddings: Literal["compute", "cache"] = "compute"
    """cache keeps what the encoder makes of an image on disk, in half precision, and never computes it twice; needs an
    encoder that is frozen, as by `train.adapter.kind: frozen_encoder`. It pays off in one trial with `train.augment`
    empty or `[flip]`, for any other draws images that do not come back; in a search also with those, because all trials
    of a seed see the same images, and one of them encodes each."""
    embeddings_gb: PositiveFloat = Field(default=20.0, json_schema_extra={"housekeeping": True})
    """Most disk space for cached embeddings; those not used for the longest time go first. SEGDIST_CACHE says where."""


def prompts(options: PromptableOptions) -> frozenset[str]:
    """The prompt kinds understood at prediction."""
    return frozenset({"none"} if options.prompt in ("class", "everything") else {"box", "point"})


def onnx(options: PromptableOptions) -> tuple[str, ...]:
    """The tensors of the ONNX graph: with `prompt: class` images alone go in; the other modes take prompts."""
    return ("logits_BKhw",) if options.prompt == "class" else ()
