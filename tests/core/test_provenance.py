"""What is written down of how a result came to be."""

import sys

import pytest

from segdist.core.provenance import TYPED, command_line


@pytest.mark.parametrize(
    ("program", "typed"),
    [
        ("/venv/bin/segdist", "segdist run 'a b.yaml'"),
        ("/lib/segdist/cli/__main__.py", "python -m segdist.cli run 'a b.yaml'"),
    ],
)
def test_a_command_can_be_typed_again_as_it_was_started(
    program: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (TYPED, "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", [program, "run", "a b.yaml"])
    assert command_line() == typed
