"""The command line answers at once, and turns what a user got wrong into one message."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segdist.cli import app
from segdist.core import storage
from segdist.pipeline.run import DONE, _asked, _fingerprint, _folder
from segdist.sweepfile.loading import load

HEAVY = ("torch", "ray", "mlflow", "transformers")
SWEEP = """\
name: tiny
storage: {storage}
data: {{sources: [{{format: synthetic, scene: roofs, count: 8, size: 32}}]}}
model: {{family: unet_cbam}}
"""


def answer(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own; what heavy libraries it imported is the last line of stderr."""
    code = (
        "import sys\nfrom segdist.cli import main\n"
        f"sys.argv = {['segdist', *map(str, arguments)]!r}\n"
        "try:\n    main()\n"
        f"finally:\n    print('imported:', *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def imported(process: subprocess.CompletedProcess[str]) -> set[str]:
    start, *names = process.stderr.splitlines()[-1].split()
    assert start == "imported:"
    return set(names)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(storage=tmp_path / "storage"))
    return file


def test_help_names_the_commands_and_imports_nothing_heavy() -> None:
    process = answer("--help")
    assert process.returncode == 0, process.stderr
    assert all(command in process.stdout for command in ("run", "check", "train", "compare", "predict", "schema"))
    assert imported(process) == set()


def test_check_shows_the_plan_starts_nothing_and_imports_nothing_heavy(sweep: Path) -> None:
    process = answer("check", sweep, "train.epochs=7")
    assert process.returncode == 0, process.stderr
    assert "7 epochs" in process.stdout
    assert "unet_cbam" in process.stdout
    assert imported(process) == set()
    assert not (sweep.parent / "storage").exists()


def test_a_sweep_file_that_is_not_there_is_one_message_with_the_nearest(sweep: Path) -> None:
    process = answer("check", sweep.with_name("tinny.yaml"))
    assert process.returncode == 2
    assert "There is no sweep file" in process.stderr
    assert "Did you mean `tiny.yaml`?" in process.stderr
    assert "Traceback" not in process.stderr


LONG = "x" * 5_000


@pytest.mark.parametrize(
    "words",
    [
        ["check", LONG],
        ["check", LONG, LONG],
        ["run", LONG],
        ["data", "validate", f"{LONG}.zip"],
        ["data", "merge", LONG, "-o", "out"],
        ["evaluate", "--predictions", LONG, "--truth", LONG],
        ["export", LONG, "--to", "hf", "-o", "out"],
        ["label", "report", LONG],
    ],
    ids=lambda words: " ".join(word for word in words if len(word) < 100),
)
def test_a_path_that_no_file_can_have_is_a_message(words: list[str]) -> None:
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert "File name too long" in found.output


def test_an_override_may_be_longer_than_a_path(sweep: Path) -> None:
    choices = ", ".join(f"{number}e-6" for number in range(1, 1_000))
    found = CliRunner().invoke(app, ["check", str(sweep), f"space={{train.lr: [{choices}]}}"])
    assert found.exit_code == 0, found.output


@pytest.mark.parametrize("command", ["check", "run"])
def test_overrides_without_a_file_are_reported_what_is_missing(command: str) -> None:
    process = answer(command, "search.trials=3")
    assert process.returncode == 2
    assert "A sweep file must be named" in process.stderr
    assert "search.trials=3" in process.stderr
    assert "Traceback" not in process.stderr


def test_of_several_files_the_good_ones_are_checked_and_the_bad_one_decides_the_exit_code(sweep: Path) -> None:
    process = answer("check", sweep.with_name("other.yaml"), sweep)
    assert process.returncode == 2
    assert "unet_cbam" in process.stdout
    *_, bad, good = process.stdout.splitlines()
    assert bad.startswith(f"{sweep.with_name('other.yaml')}  failed: There is no sweep file")
    assert good == f"{sweep}  ok"


def test_debug_shows_the_traceback_beside_the_message(sweep: Path) -> None:
    process = answer("check", "--debug", sweep.with_name("other.yaml"))
    assert process.returncode == 2
    assert "Traceback" in process.stderr
    assert "error: There is no sweep file" in process.stderr


def test_no_command_at_all_shows_the_help() -> None:
    process = answer()
    assert "Usage" in process.stdout + process.stderr


def test_an_override_may_be_for_one_of_several_files(sweep: Path) -> None:
    other = sweep.with_name("other.yaml")
    other.write_text(sweep.read_text())
    for name in (str(other), "other.yaml", "other"):
        words = ["check", str(sweep), str(other), "train.epochs=7", f"{name}:train.epochs=3"]
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 0, found.output
        first, second = found.output.split("== ")[1:3]
        assert "7 epochs" in first
        assert "3 epochs" in second


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "tinny.yaml:train.epochs=3",
            "`tinny.yaml`, which is no sweep file of this command. Did you mean `tiny.yaml`?",
        ),
        ("tinny.yaml:~train.epochs", "no sweep file of this command"),
        ("tiny:train.epochs=3", "must be for one file, but is for"),
        ("tiny.yaml:train.epoch=3", "Did you mean `epochs`?"),
    ],
)
def test_an_override_for_no_file_or_for_two_is_an_error_before_anything_starts(
    sweep: Path, word: str, said: str
) -> None:
    (sweep.parent / "b").mkdir()
    other = sweep.parent / "b" / sweep.name
    other.write_text(sweep.read_text())
    files = [str(sweep)] if "epoch=" in word else [str(sweep), str(other)]
    found = CliRunner().invoke(app, ["check", *files, word])
    assert found.exit_code == 2
    assert said in found.output
    assert "== " not in found.output


def test_a_colon_in_a_value_or_an_equals_sign_in_a_file_name_belongs_to_no_prefix(sweep: Path) -> None:
    strange = sweep.rename(sweep.with_name("lr=1.yaml"))
    found = CliRunner().invoke(app, ["check", str(strange), "question=a:b", "lr=1.yaml:train.epochs=3"])
    assert found.exit_code == 0, found.output
    assert "3 epochs" in found.output


def test_what_is_done_is_known_without_anything_heavy(sweep: Path) -> None:
    spec = load(sweep)
    folder = _folder(spec, _fingerprint(spec, "sweep"))
    storage.write_json(f"{folder}/{DONE}", {"run_id": "1f", "asked": _asked(spec), "said": "best   trial 2"})
    process = answer("run", sweep)
    assert process.returncode == 0, process.stderr
    assert "tiny is done: nothing to do." in process.stdout
    assert "best   trial 2" in process.stdout
    assert imported(process) == set()
    assert not (sweep.parent / "storage" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk is full"),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (RuntimeError("x\npyarrow.lib.ArrowInvalid: [Errno 28] No space left on device"), "disk is full"),
    ],
)
def test_what_the_machine_lacks_is_one_message_wherever_it_happens(
    sweep: Path, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("segdist.pipeline.run.run_sweep", lacking)
    found = CliRunner().invoke(app, ["run", str(sweep), "train.epochs=3"])
    assert found.exit_code == 2, found.output
    assert said in found.output
    assert len(found.output.splitlines()) < 8
    assert found.output.splitlines()[-1] == f"Then go on: segdist run {sweep} train.epochs=3"


def test_an_error_on_a_cluster_names_the_command_that_brought_the_sweep_there(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("segdist.pipeline.run.run_sweep", lacking)
    monkeypatch.setenv("SEGDIST_TYPED", "segdist submit a.yaml b.yaml --address http://me:mypassword@head:8265")
    found = CliRunner().invoke(app, ["run", str(sweep)])
    assert found.output.splitlines()[-1] == ("Then go on: segdist submit a.yaml b.yaml --address http://***@head:8265")


def test_our_own_mistake_keeps_its_traceback(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdist.pipeline.run.run_sweep", lambda *_: 1 / 0)
    found = CliRunner().invoke(app, ["run", str(sweep)])
    assert isinstance(found.exception, ZeroDivisionError)
