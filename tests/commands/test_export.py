"""`segdist export`: each form from a model folder; refusals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segdist.commands.export import export_model, push
from segdist.core.errors import ExportError
from segdist.core.panels import encode_png
from segdist.core.records import Prompt
from segdist.engine import checkpoint
from segdist.formats.synthetic.scenes import draw
from tests import only_required
from tests.engine.shipped import model_folder

ONLY = Path(only_required.__file__).read_text()
LOAD = """
import sys
hidden = hide_others(open(sys.argv[1] + "/requirements.txt").read().split())
assert {"ray", "optuna", "peft", "hydra", "moto", "pytest"} <= hidden.hidden
import json, mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
table = pd.DataFrame({"image": [open(sys.argv[2], "rb").read()]})
answer = json.loads(model.predict(table)["predictions"][0])
import segdist
answer["code"] = segdist.__file__
print(json.dumps(answer))
"""


def predicted(folder: Path, image: Any) -> list[tuple[str, bytes]]:
    network: Any = checkpoint.load(folder)
    with torch.inference_mode():
        return [(i.label, i.mask.counts) for i in network.predict([image], [Prompt()])[0]]


@pytest.mark.timeout(300)
def test_a_pyfunc_answers_with_its_own_code_where_nothing_of_training_is_installed(tmp_path: Path) -> None:
    trained = model_folder(tmp_path / "trained", "unet_cbam", adapter="lora")
    out = export_model(str(trained), "pyfunc", tmp_path / "out", storage="", tracking="embedded")
    assert "lora" not in (out / "requirements.txt").read_text()
    assert not any(
        line.startswith(("ray", "optuna", "peft")) for line in (out / "requirements.txt").read_text().split()
    )
    image, _ = draw("roofs", 5, 96)
    (tmp_path / "one.png").write_bytes(encode_png(image))

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ONLY + LOAD, str(out), str(tmp_path / "one.png")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},  # no PYTHONPATH: the model's own code is to run
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["size_hw"] == [96, 96]
    found = [(i["label"], i["segmentation"]["counts"].encode()) for i in answer["instances"]]
    assert found == predicted(trained, image)
    assert str(out) in answer["code"]


EXPORT = """
import sys
from importlib import metadata
hidden = hide_others(["segdist[onnx]"])
assert {"moto", "pytest", "transformers"} <= hidden.hidden
from pathlib import Path
from segdist.commands.export import export_model
for form in ("safetensors", "hf", "onnx", "pyfunc"):
    print(export_model(sys.argv[1], form, Path(sys.argv[2]) / form, storage="", tracking="embedded"))
"""


def test_every_form_is_written_where_only_the_wheel_s_requirements_are_installed(tmp_path: Path) -> None:
    trained = model_folder(tmp_path / "trained", "unet_cbam")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ONLY + EXPORT, str(trained), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_the_safetensors_form_is_a_model_folder_with_a_card(tmp_path: Path) -> None:
    trained = model_folder(tmp_path / "trained", "unet_cbam")
    out = export_model(str(trained), "safetensors", tmp_path / "out", storage="", tracking="embedded")
    image, _ = draw("roofs", 5, 96)
    assert predicted(out, image) == predicted(trained, image)
    assert "## Licences" in (out / "README.md").read_text()


@pytest.mark.parametrize(("form", "said"), [("onxn", "Did you mean `onnx`"), ("hf", "must be a new folder")])
def test_what_cannot_be_written_is_refused(tmp_path: Path, form: str, said: str) -> None:
    trained = model_folder(tmp_path / "trained", "unet_cbam")
    with pytest.raises(ExportError, match=said):
        export_model(str(trained), form, trained, storage="", tracking="embedded")


def test_a_push_without_a_network_is_refused_and_says_how_to_do_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match="hf upload somebody/roofs"):
        push(tmp_path, "somebody/roofs")
