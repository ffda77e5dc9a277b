"""A compiled training step does what the other one does; where there is no compiler, that is said."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segdist.engine import checkpoint
from segdist.engine.fit import MODEL, fit
from tests.engine.drawn import CLASSES, Reports, roofs, tiny_run, weights

COMPILED = """
import sys
import torch
from segdist.core.errors import SpecError
from segdist.engine.compiling import compile_in_place
try:
    compile_in_place(torch.nn.Linear(2, 2), torch.device("cpu"))
except SpecError as error:
    sys.exit(str(error))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of the CPU, however long it must share it
@pytest.mark.filterwarnings("ignore")  # torch's compiler looks at what torch warns of
def test_a_compiled_fit_learns_the_same_under_the_same_names(tmp_path: Path) -> None:
    rows = roofs(4)
    run = tiny_run(augment=[], ema=0.1)
    eager, compiled = Reports(), Reports(tmp_path)
    expected = weights(fit(run, CLASSES, train=rows, val=rows[:1], report=eager))
    found = weights(fit(run.override({"train.compile": True}), CLASSES, train=rows, val=rows[:1], report=compiled))
    assert found.keys() == expected.keys()
    assert compiled.metrics[0]["train/loss"] == pytest.approx(eager.metrics[0]["train/loss"], rel=1e-4)
    apart = [float(np.abs(value - expected[name]).max()) for name, value in found.items()]
    assert max(apart) < 1e-2, "a step of Adam is at most its rate, 3e-3"
    assert weights(checkpoint.load(tmp_path / "1" / MODEL)).keys() == expected.keys()


@pytest.mark.slow
def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "`train.compile` must find a C++ compiler such as g++" in done.stderr
    assert done.stderr.strip().endswith("or set `train.compile: false`.")
