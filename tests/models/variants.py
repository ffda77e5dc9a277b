"""The modes of our families that the contract suites run over, beside the debug ones."""

from segdist.core import registry
from segdist.testing.variants import Modes

MODES: dict[str, Modes] = {
    "unet_cbam": {
        "backbone": {"backbone": "test_resnet", "weights": "random"},
        "packaged": {"backbone": "efficientnet_lite0", "weights": "packaged", "full_resolution": False},
    },
    "mask2former": {"packaged": {"backbone": "efficientnet_lite0", "weights": "packaged"}},
    "sam": {
        "box": {"prompt": "box"},
        "best_of_three": {"prompt": "box", "masks": "best_of_three"},
        "point": {"prompt": "point"},
        "mixed": {"prompt": "mixed"},
        "everything": {"prompt": "everything", "grid_side": 8},
        "mobile": {"prompt": "class", "size": "vit_t"},
    },
    "sam2": {"box": {"prompt": "box"}, "best_of_three": {"prompt": "everything", "masks": "best_of_three"}},
}
"""Those that behave differently."""
FAMILIES: dict[str, Modes] = {family: MODES.get(family, {}) for family in registry.names("models")}
