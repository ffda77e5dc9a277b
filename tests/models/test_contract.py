"""Every family keeps what is promised to whoever predicts: by default in its debug mode and a few that differ most."""

from segdist.core import registry
from segdist.testing.predicting import PredictingContract
from tests.models.variants import FAMILIES


class TestPredicting(PredictingContract):
    families = FAMILIES
    quick = ("sam-box", "sam-everything", "unet_cbam-backbone")
    class_agnostic = ("sam-everything",)


def test_every_family_folder_is_found() -> None:
    assert {"sam", "unet_cbam"} <= set(registry.names("models"))
