"""Which runs of a sweep can be trained together in one process, and why the others cannot."""

import hashlib
import json

from segdist.core.plugins import declaration
from segdist.core.spec import RunSpec

_OWN = (
    "lr",
    "encoder_lr_factor",
    "layer_decay",
    "weight_decay",
    "warmup",
    "schedule",
    "grad_clip",
    "ema",
    "loss",
    "loss_options",
)
"""Keys of `train` in which trainings may differ that compute the same of the same images."""
_OF_RANK = ("train.adapter.rank", "train.adapter.alpha")
"""Keys of adapters that are filled up to the largest."""
_SMALL = ("frozen_encoder", "partial", "layernorm", "bitfit", "lora", "dora")


def may_differ(key: str) -> bool:
    """Whether trainings that differ in a key can be trained together."""
    first, _, second = key.partition(".")
    return key in _OF_RANK or (first == "train" and second.split(".")[0] in _OWN)


def why_alone(run: RunSpec) -> str:
    """What keeps a run from being trained together with others, as it stands in a sentence; "" for nothing."""
    adapter = run.train.adapter
    if not declaration(run.model.family).packs:
        return f"the family {run.model.family} computes its losses and its outputs in one"
    if adapter.kind not in _SMALL:
        return f"`train.adapter.kind: {adapter.kind}` leaves nothing frozen that it could share"
    if adapter.kind in ("lora", "dora") and adapter.dropout:
        return f"`train.adapter.dropout: {adapter.dropout}` draws at random in between"
    if run.resources.workers > 1:
        return f"`resources.workers: {run.resources.workers}` is a group of processes"
    return "`train.compile: true` compiles its steps for itself" if run.train.compile else ""


def likeness(run: RunSpec, labels: str) -> str:
    """Equal for runs that can be trained together; "" for one that cannot.

    Args:
        run: what is trained.
        labels: the URI of what it learns from.
    """
    if why_alone(run):
        return ""
    values = run.model_dump(mode="json", exclude={"train": {*_OWN}})
    for key in _OF_RANK:
        del values["train"]["adapter"][key.rpartition(".")[2]]
    return hashlib.sha256(json.dumps([values, labels], sort_keys=True).encode()).hexdigest()[:16]
