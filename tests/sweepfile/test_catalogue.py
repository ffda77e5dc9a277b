"""The list of families is what they declare, and needs no torch."""

import json
import subprocess
import sys

from typer.testing import CliRunner

from segdist.cli import app
from segdist.core import registry
from segdist.core.plugins import declaration


def test_every_family_is_listed_with_what_it_declares() -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0
    listed = {entry["family"]: entry for entry in json.loads(result.stdout)}
    assert sorted(listed) == registry.names("models")
    for name, entry in listed.items():
        declared = declaration(name)
        assert entry["losses"] == dict(declared.losses)
        assert entry["adapters"] == list(declared.adapters)
        assert entry["lora_targets"] == list(declared.lora_targets)
        assert entry["licence"]
        assert entry["tasks"]


def test_the_table_names_every_family() -> None:
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in registry.names("models"))


def test_listing_the_families_imports_no_torch() -> None:
    code = (
        "import sys; from segdist.sweepfile.catalogue import families; "
        "assert families(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
