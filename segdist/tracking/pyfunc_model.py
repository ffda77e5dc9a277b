"""What MLflow runs when it loads a segdist model: kept as code inside the model's folder, so that nothing is unpickled.

Input: a table with `image` (an encoded picture, as bytes or base64 text) and, where the model takes them, `prompt`
(JSON, see `segdist.serving.answers.PromptRequest`). Output: a table with `predictions`, for each picture the JSON of
`{"size_hw": [h, w], "instances": [COCO annotations with label and score]}`.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from segdist.core.plugins import declaration


class SegdistModel(PythonModel):
    """A segmentation model of segdist."""

    def load_context(self, context: Any) -> None:
        """Build the network from the model's folder."""
        self.load(Path(context.artifacts["model"]))

    def load(self, folder: Path, *, trusted: bool = False) -> None:
        """The same from a model folder; see `checkpoint.load` for what one may name that is trusted."""
        from segdist.engine import checkpoint

        self._evaluate = checkpoint.describe(folder).evaluate
        self._network = checkpoint.load(folder, trusted=trusted)
        family = declaration(checkpoint.describe(folder).model.family)
        self._understood = family.prompts(self._network.options)

    def predict(
        self,
        context: object,  # noqa: ARG002 - MLflow names them
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """One row for each picture."""
        asked = model_input["prompt"] if "prompt" in model_input else [""] * len(model_input)
        rows = [self._answer(image, prompt) for image, prompt in zip(model_input["image"], asked, strict=True)]
        return pd.DataFrame({"predictions": rows})

    def _answer(self, image: object, prompt: object) -> str:
        from segdist.engine.predict import find_in
        from segdist.reading.examples import decode_image
        from segdist.serving.answers import instances_json, read_prompt

        pixels_HWC = decode_image(_bytes(image))
        size_hw = pixels_HWC.shape[0], pixels_HWC.shape[1]
        classes = self._network.classes
        text = prompt if isinstance(prompt, str) else ""
        prompt = read_prompt(text, size_hw=size_hw, classes=classes, understood=self._understood)
        found = find_in(self._network, pixels_HWC, prompt, self._evaluate, image_id="")
        return json.dumps({"size_hw": size_hw, "instances": instances_json(found.instances, classes)})


def _bytes(image: Any) -> bytes:
    if isinstance(image, str):
        try:
            return base64.b64decode(image, validate=True)
        except binascii.Error as error:
            raise ValueError(f"`image` must be bytes or base64 text, but: {error}") from error
    return bytes(image)


set_model(SegdistModel())
