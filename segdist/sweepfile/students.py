"""Who learns in the rounds of `label.rounds`: the model that the file names, or a small one."""

from collections.abc import Iterator

from segdist.core import extras
from segdist.core.plugins import declaration
from segdist.core.spec import LabelSpec, ModelSpec, StudentSpec

_IMAGE_SIZE = 224
_PRETRAINED = {"backbone": "efficientnet_lite0", "weights": "packaged", "image_size": _IMAGE_SIZE, "width": 16}


def student_of(policy: LabelSpec) -> StudentSpec:
    """The student of a policy with everything said, its model too."""
    found = policy.student or StudentSpec()
    return found if found.model else found.model_copy(update={"model": _usual_model()})


def student_model(policy: LabelSpec) -> ModelSpec:
    """The model of a policy's students."""
    return student_of(policy).model or _usual_model()


def problems(policy: LabelSpec) -> Iterator[str]:
    """Why the model of a student cannot be one, where its family and options are known to be right."""
    model = student_model(policy)
    declared = declaration(model.family)
    if not declared.losses:
        yield f"`{model.family}` has nothing to train, so it is no student; take unet_cbam or segformer"
    elif "none" not in (understood := declared.prompts(declared.options.model_validate(model.family_options()))):
        yield (
            f"a student is shown the image alone, but `{model.family}` as configured takes "
            f"{', '.join(sorted(understood))} prompts; take unet_cbam or segformer"
        )


def _usual_model() -> ModelSpec:
    options = {"image_size": _IMAGE_SIZE} if extras.missing("encoders") else _PRETRAINED
    return ModelSpec.model_validate({"family": "unet_cbam", "unet_cbam": options})
