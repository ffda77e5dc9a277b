"""What programs may import of segdist: these names, with these signatures, at no cost before they are used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import segdist

SIGNATURES = {
    "AnnotatedImages": "(parts, samples, findings)",
    "Finding": "(code, severity, message, file='', image='', annotation='')",
    "Instance": "(label, mask, box_xyxy, score=1.0, is_crowd=False, evidence=None)",
    "Model.predict": "(self, images, prompts=None)",
    "Prediction": "(image_id, instances, seconds=0.0, text='', size_hw=(0, 0), classes=())",
    "Prediction.to_coco": "(self)",
    "Prediction.to_supervision": "(self)",
    "Prompt": "(boxes_xyxy=(), labels=(), points_xy=(), point_is_object=(), text='')",
    "Rle": "(size_hw, counts)",
    "Sample": "(image_id, image_uri, size_hw, instances=(), split='', group='', source='human', text='')",
    "compare": "(name, *, storage='', tracking='embedded')",
    "draw": "(image, prediction)",
    "evaluate": "(model, data, *, split='', changes=None, storage='', tracking='embedded', seed=0, further=None)",
    "load_model": "(model, *, changes=None, storage='', tracking='embedded')",
    "read_dataset": "(path, *, split='', format_name='', options=None, skip_errors=False)",
    "run": "(sweep, **overrides)",
}
"""Parameters and their defaults; of their types mypy tells."""
ERRORS = {
    "BackendError", "DataError", "ExportError", "PromotionError", "SegdistError", "SpecError", "StorageError",
    "WeightsError",
}  # fmt: skip
WITHOUT_SIGNATURE = {"Model"}  # is loaded, not built
HEAVY = ("torch", "ray", "mlflow", "numpy", "pandas", "pydantic", "PIL", "typer")


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_is_what_programs_were_written_against(name: str) -> None:
    front, _, method = name.partition(".")
    thing = getattr(segdist, front)
    thing = getattr(thing, method) if method else thing
    signature = inspect.signature(thing)
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    assert str(inspect.Signature(plain)) == SIGNATURES[name]
    assert inspect.getdoc(thing), "it is documented"


def test_the_names_are_these() -> None:
    documented = {name.partition(".")[0] for name in SIGNATURES}
    assert set(segdist.__all__) == documented | ERRORS | WITHOUT_SIGNATURE
    assert dir(segdist) == sorted(segdist.__all__)
    for name in ERRORS:
        assert issubclass(getattr(segdist, name), segdist.SegdistError)


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(Path(segdist.__file__).read_text("utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"segdist.{home}" for name, home in segdist._HOME_OF.items()}
    assert sorted(seen) == sorted(segdist.__all__)
    assert Path(segdist.__file__).with_name("py.typed").is_file(), "and are told to look"


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    program = (
        f"import sys, segdist; dir(segdist); print([name for name in {HEAVY} if name in sys.modules]); "
        "segdist.SegdistError; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"]


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known() -> None:
    with pytest.raises(AttributeError, match=r"no attribute `lod_model`.*load_model"):
        segdist.lod_model  # type: ignore[attr-defined]  # noqa: B018 - it is the reading that fails, for mypy too
