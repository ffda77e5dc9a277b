"""What can be wrong about `train` once the families are known; imports no torch."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec

from segdist.core import extras
from segdist.core.errors import did_you_mean
from segdist.core.plugins import Family
from segdist.core.spec import SweepSpec

Keys = tuple[str, ...]
KeyProblem = tuple[Keys, str]
"""The path of keys to a problem, and the rule it breaks."""
_NEEDS = {"lora": ("peft",), "dora": ("peft",), "qlora": ("bitsandbytes", "peft")}
"""The libraries that an adapter needs."""
_ON_GPU = "qlora"
_IN_PHASES = ("epochs", "lr", "encoder_lr_factor", "warmup", "schedule")


def problems(spec: SweepSpec, families: Mapping[str, Family]) -> Iterator[KeyProblem]:
    """What is wrong with losses, adapters and phases.

    Args:
        spec: the sweep.
        families: the declarations of those it may train, by name.
    """
    yield from _losses(spec, families)
    yield from _adapters(spec, families)
    yield from _phases(spec)
    yield from _layer_decay(spec, families)
    yield from _noise(spec, families)
    yield from _divided(spec, families)


def needs_gpu(spec: SweepSpec, families: Iterable[str]) -> bool:
    """Whether a trial of these families may be one that no CPU computes."""
    return any(kind == _ON_GPU for family in families for kind, _ in _kinds(spec, family))


def _noise(spec: SweepSpec, families: Mapping[str, Family]) -> Iterator[KeyProblem]:
    """Options for uncertain labels that a family would pass over."""
    asked: list[tuple[Keys, str]] = [(("train", "noise", key), key) for key, value in spec.train.noise if value]
    asked += [(("space", key), key.rpartition(".")[2]) for key in spec.space if key.startswith("train.noise.")]
    for keys, key in asked:
        for name, family in families.items():
            searched = spec.space.get(".".join(keys[1:])) if keys[0] == "space" else None
            if searched and searched.when.get("model.family", name) != name:
                continue
            if key not in family.noise:
                yield keys, f"`{name}` does not support `train.noise.{key}`. It supports: {', '.join(family.noise)}."


def _layer_decay(spec: SweepSpec, families: Mapping[str, Family]) -> Iterator[KeyProblem]:
    """Rates that fall from block to block, where a family names no blocks."""
    searched = spec.space.get("train.layer_decay")
    keys = ("space", "train.layer_decay") if searched else ("train", "layer_decay")
    if not searched and spec.train.layer_decay == 1:
        return
    for name, family in families.items():
        if not family.encoder_blocks and not (searched and searched.when.get("model.family", name) != name):
            yield keys, f"`{name}` names no blocks of its encoder. Use `train.encoder_lr_factor`."


def _divided(spec: SweepSpec, families: Mapping[str, Family]) -> Iterator[KeyProblem]:
    """What cannot be trained with its weights divided over workers."""
    if spec.resources.strategy != "fsdp":
        return
    for name in families:
        for kind, keys in _kinds(spec, name):
            if kind == _ON_GPU:
                yield keys, "`resources.strategy: fsdp` cannot divide weights of four bits. Use `lora`."
        searched = spec.space.get(f"model.{name}.embeddings")
        written = spec.model.family_options(name).get("embeddings")
        if "cache" in (searched.choices if searched else (written,)):
            keys = ("space", f"model.{name}.embeddings") if searched else ("model", name, "embeddings")
            why = "workers that read cached ones take no part in encoding"
            yield keys, f"`resources.strategy: fsdp` needs `embeddings: compute`: {why}. Or use `ddp`."


def _losses(spec: SweepSpec, families: Mapping[str, Family]) -> Iterator[KeyProblem]:
    known = {term for family in families.values() for term in family.losses}
    searched = [k.split(".", 2) for k in spec.space if k.startswith("train.loss.")]
    for keys in [("train", "loss", term) for term in spec.train.loss] + [("space", ".".join(k)) for k in searched]:
        term = keys[-1].rpartition(".")[2]
        if term not in known:
            named = " or ".join(f"`{f}`" for f in families)
            yield keys, f"{named} has no loss `{term}`. {did_you_mean(term, known)}"


def _adapters(spec: SweepSpec, families: Mapping[str, Family]) -> Iterator[KeyProblem]:
    for name, family in families.items():
        for kind, keys in _kinds(spec, name):
            if kind not in family.adapters:
                yield keys, f"`{name}` has no adapter `{kind}`. It supports: {', '.join(family.adapters)}."
            elif missing := _missing(kind, spec):
                yield keys, missing


def _kinds(spec: SweepSpec, family: str) -> Iterator[tuple[str, Keys]]:
    """The kinds of adapter that a family may be trained with, and where that is said."""
    searched = spec.space.get("train.adapter.kind")
    if searched and searched.when.get("model.family", family) == family:
        yield from ((str(kind), ("space", "train.adapter.kind")) for kind in searched.choices)
    else:
        yield spec.train.adapter.kind, ("train", "adapter", "kind")


def _missing(kind: str, spec: SweepSpec) -> str:
    """What an adapter needs and does not find; "" where all is there."""
    if kind == _ON_GPU and spec.resources.gpus_per_worker == 0:
        return "`qlora` needs a GPU. Set `resources.gpus_per_worker: 1`, or use `lora`."
    missing = [library for library in _NEEDS.get(kind, ()) if not find_spec(library)]
    return extras.needs(f"`{kind}`", *missing) if missing else ""


def _phases(spec: SweepSpec) -> Iterator[KeyProblem]:
    """With phases, the keys that they replace must not be set or searched as if they counted."""
    if not spec.train.phases:
        return
    for key in _IN_PHASES:
        value, total = getattr(spec.train, key), spec.train.total_epochs
        if key in spec.train.model_fields_set and (key, value) != ("epochs", total):
            yield ("train", key), f"`train.{key}` has no effect beside `train.phases`, which have their own. Remove it."
        if f"train.{key}" in spec.space:
            instead = f"train.phases.0.{key}"
            yield (
                ("space", f"train.{key}"),
                f"`train.{key}` has no effect beside `train.phases`. Search `{instead}` instead.",
            )
