"""The model card: what a model is for, what it learned from, how good it is, and under which licences."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from segdist.core.plugins import declaration
from segdist.engine.checkpoint import Description
from segdist.metrics import shown_in

CARD = "README.md"
_UNKNOWN = "not recorded: the model was exported from a folder, not from a sweep's run"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from; empty where nobody recorded it.

    Attributes:
        name: of the sweep.
        question: that it answers.
        run_id: of its trial.
        data_hash: content hash of the data it learned from.
        labels_hash: of the pseudo-labels that overlay them.
        splits: images of each split.
        licences: of the data.
        metrics: of the kept model, `val/...` and `test/...`.
        packages: versions of the libraries it was trained with.
        commit: of the repository that held the sweep file.
    """

    name: str = ""
    question: str = ""
    run_id: str = ""
    data_hash: str = ""
    labels_hash: str = ""
    splits: Mapping[str, int] = field(default_factory=dict)
    licences: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""


def card(description: Description, origin: Origin, *, form: str, notes: str = "", hub: bool = False) -> str:
    """The card as Markdown.

    Args:
        description: of the model.
        origin: where it comes from.
        form: how to use this export, as Markdown.
        notes: further sections.
        hub: begin with the metadata that the Hugging Face hub reads.
    """
    declared = declaration(description.model.family)
    parts = [
        *([_front(description, origin)] if hub else []),
        f"# {origin.name or description.model.family}",
        f"**{origin.question}**" if origin.question else "",
        f"A `{description.model.family}` model that finds: {', '.join(description.classes)}.",
        "## Intended use\n" + _use(description, origin),
        "## How to use it\n" + form.strip(),
        "## Data\n" + _data(origin),
        "## Metrics\n" + _metrics(origin),
        "## Licences\n" + _licences(declared.licence, origin),
        "## How it was made\n" + _made(description, origin),
        notes,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(description: Description, origin: Origin) -> str:
    content: dict[str, object] = {
        "library_name": "transformers" if declaration(description.model.family).hub_module else "segdist",
        "pipeline_tag": "image-segmentation",
        "tags": ["segdist", description.model.family, "image-segmentation"],
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in content.items()]
    found = [(n, v) for n, v in origin.metrics.items() if n in ("test/iou", "test/dice")]
    if found and origin.data_hash:
        results = [{"type": n.rpartition("/")[2], "value": round(v, 4), "name": n} for n, v in found]
        index = {
            "name": origin.name,
            "results": [
                {
                    "task": {"type": "image-segmentation"},
                    "dataset": {"name": origin.name, "type": origin.data_hash},
                    "metrics": results,
                }
            ],
        }
        lines.append(f"model-index: {json.dumps([index])}")
    return "\n".join(["---", *lines, "---"])


def _use(description: Description, origin: Origin) -> str:
    kind = "the boxes it is shown" if description.evaluate.prompts == "box" else "whole images, without prompts"
    asked = f" It answers: {origin.question}" if origin.question else ""
    return (
        f"Segmentation of {kind}.{asked} Images like those it learned from: other cameras, lighting or subjects were "
        "not measured. What it finds is a proposal with a score; decisions with consequences for people need a person "
        f"who looks. Instances scored below {description.evaluate.min_score:g} do not count as found."
    )


def _data(origin: Origin) -> str:
    if not origin.data_hash:
        return f"Content hash: {_UNKNOWN}."
    lines = [f"- Content hash of the data: `{origin.data_hash}`"]
    if origin.labels_hash:
        lines.append(f"- Content hash of the pseudo-labels that overlay them: `{origin.labels_hash}`")
    lines.append(f"- Images: {', '.join(f'{name} {count}' for name, count in origin.splits.items())}")
    return "\n".join(lines)


def _metrics(origin: Origin) -> str:
    rows = []
    for name, how in shown_in("card").items():
        values = [origin.metrics.get(f"{split}/{name}") for split in ("val", "test")]
        if any(v is not None for v in values):
            rows.append(f"| {how.heading} | " + " | ".join("" if v is None else f"{v:.4f}" for v in values) + " |")
    if not rows:
        return f"None: {_UNKNOWN}."
    note = "`val` chose the model; `test` was seen once, by the winner alone."
    return "\n".join(["| metric | val | test |", "|---|---|---|", *rows, "", note])


def _licences(of_model: str, origin: Origin) -> str:
    of_data = ", ".join(origin.licences) or "not stated by the sources; find out before you ship"
    return f"- Model family and published weights: {of_model}\n- Data: {of_data}\n- segdist: Apache-2.0"


def _made(description: Description, origin: Origin) -> str:
    options = json.dumps(description.model.family_options(), sort_keys=True)
    lines = [f"- Options: `{options}`", f"- Seed: {description.seed}"]
    if origin.run_id:
        lines.append(f"- MLflow run: `{origin.run_id}`")
    if origin.commit:
        lines.append(f"- Commit of the sweep file: `{origin.commit}`")
    if origin.packages:
        lines.append("- Trained with: " + ", ".join(f"{k} {v}" for k, v in origin.packages.items()))
    return "\n".join(lines)
