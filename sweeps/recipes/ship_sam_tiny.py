"""From the recipe's model folder to the weights that ship: in half precision.

segdist train sweeps/recipes/pretrain_sam_tiny.yaml --save scratch/sam_tiny
python sweeps/recipes/ship_sam_tiny.py scratch/sam_tiny
"""

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from segdist.models.sam import SHIPPED_FILE


def main(folder: Path) -> None:
    """Write the package's weights from a model folder."""
    state = load_file(folder / "weights.safetensors")
    save_file({name: weights.half() for name, weights in state.items()}, SHIPPED_FILE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
