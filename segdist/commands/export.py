"""`segdist export`: a model out of the registry into the form that production, a hub or another runtime takes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from segdist.commands.model import model_folder, place_of
from segdist.core import extras
from segdist.core.errors import ExportError, did_you_mean
from segdist.core.plugins import declaration
from segdist.core.redaction import redact
from segdist.core.text import counted
from segdist.engine import checkpoint
from segdist.engine.checkpoint import Description
from segdist.exporting import card, export
from segdist.exporting.card import CARD, Origin
from segdist.nets.segmenter import Segmenter, Traceable
from segdist.nets.weights import hub_errors
from segdist.tracking import Tracker

Form = Literal["safetensors", "hf", "onnx", "pyfunc"]
GRAPH, PREPROCESSING, PARITY = "model.onnx", "preprocessing.json", "parity.json"


@dataclass(frozen=True)
class _Job:
    """What every form is written from."""

    network: Segmenter
    description: Description
    origin: Origin
    out: Path


def export_model(model: str, form: str, out: Path, *, storage: str, tracking: str) -> Path:
    """Write a model with merged adapters and its card.

    Args:
        model: `NAME@champion`, `NAME@VERSION`, `SWEEP#TRIAL`, a run id, or a model folder.
        form: `safetensors`, `hf`, `onnx` or `pyfunc`.
        out: a folder that is not there yet, or empty.
        storage: of the sweep that trained the model.
        tracking: its MLflow URI, or "embedded".

    Returns:
        The folder.

    Raises:
        ExportError: there is no such form, something is in the way, or the model cannot be written so.
    """
    if form not in _FORMS:
        raise ExportError(f"There is no form `{form}` to export to. {did_you_mean(form, _FORMS)}")
    if out.is_dir() and any(out.iterdir()):
        raise ExportError(f"{out} must be a new folder, but it holds files. Name another one, or empty it.")
    origin = origin_of(model, storage, tracking)
    with model_folder(model, storage, tracking) as (folder, trusted):
        network, description = export.load_merged(folder, trusted=trusted)
    with TemporaryDirectory(prefix="segdist-") as scratch:  # complete, or not there at all
        part = Path(scratch) / "out"
        _FORMS[form](_Job(network, description, origin, part))
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(part, out, dirs_exist_ok=True)
    return out


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to the Hugging Face hub, into a private repository; its address.

    Raises:
        ExportError: the hub cannot be reached, or refuses; nothing was uploaded then.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ExportError(extras.needs("Pushing", "huggingface_hub")) from error
    try:
        hub = huggingface_hub.HfApi()
        hub.create_repo(repository, private=True, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=str(folder)))
    except hub_errors() as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"The Hugging Face hub did not take {repository}: {reason} The folder {folder} is complete; push it where "
            f"there is a network and a login: hf upload {repository} {folder}"
        ) from error


def origin_of(model: str, storage: str, tracking: str) -> Origin:
    """What MLflow knows of a model; a folder knows nothing."""
    if place_of(model):
        return Origin()
    tracker = Tracker.at(storage, tracking)
    run_id = tracker.run_of(model)
    trial, sweep = tracker.trial(run_id)
    profile = sweep.dataset.profile if sweep.dataset else {}
    labels = tracker.read_json(sweep.run_id, "summary.json").get("labels") or {}
    return Origin(
        name=sweep.name,
        question=sweep.question,
        run_id=run_id,
        data_hash=str(profile.get("content_hash", "")),
        labels_hash=str(labels.get("content_hash", "")),
        splits={name: int(counts["images"]) for name, counts in profile.get("splits", {}).items()},
        licences=tuple(profile.get("licences", ())),
        metrics=trial.metrics,
        packages=sweep.environment.get("packages", {}),
        commit=sweep.environment.get("git_commit", ""),
    )


def _safetensors(job: _Job) -> None:
    export.write(job.network, job.description, job.out)
    usage = (
        "A segdist model folder: `segdist predict FOLDER photos/ -o out/`, or in Python "
        '`segdist.load_model(FOLDER).predict("photo.jpg")`.'
    )
    _write_card(job, usage)


def _hf(job: _Job) -> None:
    export.write(job.network, job.description, job.out, base=".")
    declared = declaration(job.description.model.family)
    usage = "With segdist: `hf download REPOSITORY --local-dir FOLDER`, then `segdist predict FOLDER photos/ -o out/`."
    if declared.hub_module:
        module = job.network.get_submodule(declared.hub_module)
        usage += f"\n\nWith transformers alone: `{type(module).__name__}.from_pretrained(REPOSITORY)`."
        usage += f"\n\n{_geometry(job)}"
    _write_card(job, usage, hub=True)


def _onnx(job: _Job) -> None:
    from segdist.exporting import onnx_graph

    job.out.mkdir(parents=True)
    declared = declaration(job.description.model.family)
    parity = onnx_graph.write(job.network, declared, job.out / GRAPH)
    (job.out / PARITY).write_text(json.dumps(parity.to_json(), indent=1))
    assert isinstance(job.network, Traceable)  # or there is no graph
    (job.out / PREPROCESSING).write_text(json.dumps(_preprocessing(job.network), indent=1))
    (job.out / checkpoint.DESCRIPTION).write_text(json.dumps(job.description.to_json(), indent=1))
    batch = "any number of images" if not parity.batch else "one image"
    usage = f"`{GRAPH}` takes `{onnx_graph.INPUT}`, {batch} at a time. {_geometry(job)}\n\n```python\n{_EXAMPLE}```"
    differences = ", ".join(f"{name} {value:.1e}" for name, value in parity.max_difference.items())
    notes = (
        f"## Parity with torch\nOver {counted(parity.images, 'picture')}, onnxruntime on a CPU: largest "
        f"absolute difference "
        f"{differences}; what is found has an IoU of at least {parity.smallest_iou:.4f} with what torch finds."
    )
    _write_card(job, usage, notes=notes)


def _pyfunc(job: _Job) -> None:
    from segdist.tracking import pyfunc

    family = job.description.model.family
    with TemporaryDirectory(prefix="segdist-") as scratch:
        model = Path(scratch) / "model"
        export.write(job.network, job.description, model)
        facts = {"data_hash": job.origin.data_hash, "run_id": job.origin.run_id, "classes": job.description.classes}
        name = job.origin.name or family
        pyfunc.save(model, job.out, family=family, name=name, metadata=json.loads(json.dumps(facts)))
    usage = (
        "`mlflow.pyfunc.load_model(FOLDER).predict(pandas.DataFrame({'image': [image_bytes]}))`, or "
        "`mlflow models serve -m FOLDER`. Each row of `predictions` is JSON with COCO annotations. Neither segdist nor "
        "Ray has to be installed; `requirements.txt` says what has."
    )
    _write_card(job, usage)


def _write_card(job: _Job, usage: str, *, notes: str = "", hub: bool = False) -> None:
    text = card.card(job.description, job.origin, form=usage, notes=notes, hub=hub)
    (job.out / CARD).write_text(redact(text), "utf-8")


def _preprocessing(network: Traceable) -> dict[str, object]:
    """How pixels get into the network, measured on a picture: mean and deviation by channel in 0..255."""
    import numpy as np

    size = network.options.image_size
    dark, bright = (network.pixels([np.full((size, size, 3), v, np.uint8)])[0, :, 0, 0].double() for v in (0, 255))
    deviation = 255 / (bright - dark)
    return {
        "image_size": size,
        "mean": [round(v, 4) for v in (-dark * deviation).tolist()],
        "std": [round(v, 4) for v in deviation.tolist()],
        "layout": "float32 (batch, RGB, height, width)",
        "resize": "longest side to image_size, bilinear, antialiased",
        "pad": "zeros right and below, after normalisation",
        "classes": list(network.classes),
    }


def _geometry(job: _Job) -> str:
    size = job.network.options.image_size
    return (
        f"Images are scaled so that their longest side is {size} pixels, normalised, and padded with zeros on the "
        f"right and below to {size} x {size}; outputs cover the padded square."
    )


_EXAMPLE = """\
import json, numpy as np, onnxruntime
from PIL import Image

how = json.load(open("preprocessing.json"))
image = Image.open("photo.jpg").convert("RGB")
scale = how["image_size"] / max(image.size)
small = image.resize([max(int(v * scale + 0.5), 1) for v in image.size], Image.Resampling.BILINEAR)
pixels = np.zeros((1, 3, how["image_size"], how["image_size"]), np.float32)
normal = (np.asarray(small, np.float32) - np.float32(how["mean"])) / np.float32(how["std"])
pixels[0, :, : small.height, : small.width] = normal.transpose(2, 0, 1)
outputs = onnxruntime.InferenceSession("model.onnx").run(None, {"pixels_B3SS": pixels})
"""

_FORMS: dict[str, Callable[[_Job], None]] = {
    "safetensors": _safetensors,
    "hf": _hf,
    "onnx": _onnx,
    "pyfunc": _pyfunc,
}
