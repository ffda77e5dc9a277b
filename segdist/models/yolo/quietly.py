"""The one place that imports ultralytics: it asks no server, installs nothing and leaves no file behind.

It is shown no file from outside: a `.pt` file is read by `state_dicts`, and networks are built from the library's own
tables. Its safe mode, which evaluates nothing in a description of a network, is on all the same.

On import the library looks for the network, writes settings below the user's home, replaces `torch.save` and
`PIL.Image.open`, and changes how numpy prints and how many threads OpenCV has. It does so here in a folder that is gone
afterwards; the rest is put back.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from PIL import Image

__all__ = ["TABLES", "SegmentationModel", "v8SegmentationLoss"]


@contextmanager
def _nothing_changed() -> Iterator[None]:
    environment, printing, threads = dict(os.environ), np.get_printoptions(), cv2.getNumThreads()
    save, open_image = torch.save, Image.open
    with TemporaryDirectory(prefix="segdist-ultralytics-") as settings:
        os.environ |= {
            "YOLO_CONFIG_DIR": settings,
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_VERBOSE": "false",
            "ULTRALYTICS_SAFE_LOAD": "true",
        }
        try:
            yield
        finally:
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ |= environment
    torch.save = save
    Image.open = open_image  # ultralytics' own wants a library for every file that is no image
    np.set_printoptions(**printing)
    cv2.setNumThreads(threads)


with _nothing_changed():
    from ultralytics.nn.tasks import SegmentationModel
    from ultralytics.utils import ROOT, SETTINGS
    from ultralytics.utils.loss import v8SegmentationLoss

    SETTINGS.update(sync=False)  # no telemetry, whatever the defaults become

TABLES = Path(ROOT) / "cfg" / "models"
"""The library's own descriptions of the published networks."""
