"""The API as its own description says: schemathesis asks it what the description allows, and what it does not."""

from itertools import cycle
from typing import Any

import hypothesis
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("multipart")
pytest.importorskip("schemathesis")
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import negative_data_rejection, positive_data_acceptance

from segdist.core.panels import encode_jpeg, encode_png
from tests.serving.test_app import HEADERS, PICTURE, app_of

BOX, CLASS = '{"boxes_xyxy": [[1, 2, 30, 40]]}', '{"boxes_xyxy": [[1, 2, 3, 4]], "labels": ["tree"]}'
FORMS = cycle(
    [
        {"image": image, "prompt": prompt}
        for image in (encode_png(PICTURE), encode_jpeg(PICTURE))
        for prompt in ("", BOX, CLASS, "{")
    ]
    + [{}] * 3
)
SETTINGS: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": hypothesis.HealthCheck}

api = schemathesis.openapi.from_asgi("/openapi.json", app_of())


def check(case: Any) -> None:
    """Ask, and hold the answer against the description, by every check of schemathesis.

    No description can tell which bytes are a picture, nor what a prompt may ask about it: that a form is refused though
    its fields are of the right kind is no fault. Most forms get a picture, which to schemathesis breaks their schema.
    """
    excluded = []
    if case.method == "POST":
        excluded.append(positive_data_acceptance)
        fixed = next(FORMS)
        if fixed and isinstance(case.body, dict) and case.meta.generation.mode is GenerationMode.POSITIVE:
            case.body = {**case.body, **fixed}
            excluded.append(negative_data_rejection)
    case.call_and_validate(headers=HEADERS, excluded_checks=excluded)


@api.parametrize()
@hypothesis.settings(max_examples=12, **SETTINGS)
def test_it_answers_as_described(case: Any) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.timeout(900)
@api.parametrize()
@hypothesis.settings(max_examples=500, **SETTINGS)
def test_it_answers_as_described_in_a_long_run(case: Any) -> None:
    check(case)
