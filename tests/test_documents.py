"""What documents, sweep files and --help tell a user to write or type, exists and works."""

import ast
import inspect
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import segdist
from segdist.cli import app
from segdist.cli.options import files_and_overrides, overrides_by_file
from segdist.sweepfile.loading import load

PAGES = sorted(map(str, Path("docs").glob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", *PAGES)
ROOT = Path.cwd()
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`(segdist [^`\n]+)`")
_SEPARATE = frozenset({"&&", "||", ";", "|"})
OTHER_PROGRAMS = frozenset(
    {"export", "make", "ray", "mlflow", "dvc", "open", ".", "pip", "python", "git", "uvx", ".venv/bin/pre-commit"}
)


def blocks(document: str, language: str) -> list[str]:
    return [body for found, body in _BLOCK.findall(Path(document).read_text("utf-8")) if found == language]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block of lines, each as its words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"(^|\s)#.*", "", line))  # to shlex itself, `a#3` would be a comment too
        while words:
            end = next((n for n, word in enumerate(words) if word in _SEPARATE), len(words))
            one, words = words[:end], words[end + 1 :]
            yield one[: one.index(">")] if ">" in one else one


@cache
def typed() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every command that a document shows, with the document's name."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for document in DOCUMENTS:
        shown = blocks(document, "") + blocks(document, "bash") + _INLINE.findall(Path(document).read_text("utf-8"))
        found += [(document, tuple(words)) for text in shown for words in commands(text) if words]
    for file in sorted(Path("sweeps").rglob("*.yaml")):
        comments = "\n".join(re.findall(r"^#   ?(.*)$", file.read_text("utf-8"), re.MULTILINE))
        told = re.findall(r"^segdist (?:[^\n\\]|\\\n)*", comments, re.MULTILINE)
        found += [(str(file), tuple(words)) for text in told for words in commands(re.sub(r"  +[A-Z].*", "", text))]
    return tuple(found)


def parsed(words: list[str]) -> Any:
    """The context of a command of ours, parsed by the real command line and not run.

    Raises:
        Exception: of the command line: no such command or option, an argument is missing or too much.
    """
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, words, parent=context)
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        _, command, words = command.resolve_command(context, list(rest))
    return command.make_context(command.name, list(words), parent=context)


def _is_name(words: tuple[str, ...]) -> bool:
    """Whether these are the words of a command and nothing more, as in a sentence about it."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return command is not None


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the README supposes it: sweeps, one of them copied from its first example, and an export."""
    shutil.copytree("sweeps", tmp_path / "sweeps")
    (tmp_path / "sweeps" / "seams.yaml").write_text(blocks("README.md", "yaml")[0], "utf-8")
    monkeypatch.setenv("SEGDIST_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("SEGDIST_DOWNLOAD_WEIGHTS", "1")  # whoever types them has fetched what they name
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_the_documents_show_commands_of_every_kind() -> None:
    names = {words[1] for _, words in typed() if words[0] == "segdist"}
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert known - {"models"} <= names | {"models"}
    assert len(typed()) > 60


@pytest.mark.parametrize(
    ("document", "words"), typed(), ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60]
)
def test_a_command_that_is_shown_can_be_typed(document: str, words: tuple[str, ...], desk: Path) -> None:
    if words[0] != "segdist":
        assert words[0] in OTHER_PROGRAMS, f"{document}: {words[0]}"
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    if _is_name(words[1:]):
        return
    context = parsed(list(words[1:]))
    given = context.params.get("sweeps") or context.params.get("sweep") or []
    for file, overrides in overrides_by_file(list(given)):
        if "*" not in file:  # tests/sweepfile/test_sweepfile.py loads every one
            load(file, overrides)


def test_the_first_example_of_the_readme_passes_check_as_it_stands(desk: Path) -> None:
    said = run("check", "sweeps/seams.yaml")
    assert "unet_cbam, mask2former" in said
    assert "train.adapter.rank" in said
    assert "NOT HERE" in said, "the images are the reader's own"


def test_every_other_yaml_block_fits_into_a_sweep_file(desk: Path) -> None:
    first, *others = (text for document in DOCUMENTS for text in blocks(str(ROOT / document), "yaml"))
    assert others
    for text in others:
        keys = re.findall(r"^(\w+):", text, re.MULTILINE)
        base = re.sub(rf"^(?:{'|'.join(keys)}):.*\n(?:[ #].*\n)*", "", first, flags=re.MULTILINE)
        file = desk / "block.yaml"
        file.write_text(base + text, "utf-8")
        load(file)


def test_python_that_is_shown_calls_what_there_is() -> None:
    """What it does is shown by the notebook, every cell of which runs in tests/pipeline."""
    names = {"segdist": segdist, "model": segdist.Model, "prediction": segdist.Prediction}
    calls = 0
    for text in (text for document in DOCUMENTS for text in blocks(document, "python")):
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            assert isinstance(node.func.value, ast.Name)
            if node.func.value.id in names:
                called = inspect.signature(getattr(names[node.func.value.id], node.func.attr))
                itself = [] if node.func.value.id == "segdist" else [None]
                named = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                called.bind(*itself, *node.args, **named)
                calls += 1
    assert calls > 7


def test_check_shows_the_space_that_the_command_line_made(desk: Path) -> None:
    said = run("check", "sweeps/seams.yaml", "space={train.lr: [1e-4, 1e-3]}")
    assert "train.adapter.rank" not in said
    assert re.search(r"train\.lr +0\.0001, 0\.001", said)
    said = run("check", "sweeps/seams.yaml", "~space.model.family", "~space.train.adapter.rank", "space.seed=[1, 2]")
    assert re.search(r"families +unet_cbam\n", said)
    assert re.search(r"seed +1, 2", said)


def test_commands_on_data_run_as_the_readme_shows_them(desk: Path) -> None:
    (desk / "pictures.yaml").write_text("sources: [{format: synthetic, scene: roofs, count: 6, size: 64}]\n")
    run("data", "merge", "pictures.yaml", "-o", "made")
    run("data", "convert", "made", "--to", "coco", "-o", "exports/drywall")
    shutil.make_archive("export", "zip", "exports/drywall")
    (desk / "sources.yaml").write_text("sources: [{format: coco, path: exports/drywall}]\n")
    shown = [words[2:] for document, words in typed() if document == "README.md" and words[:2] == ("segdist", "data")]
    ran = [words for words in shown if words[-1] != "data/drywall" and "jsonl/" not in words]
    assert {words[0] for words in ran} == {"validate", "stats", "view", "merge", "split", "convert"}
    for words in ran:
        run("data", *words)
    assert (desk / "stats.html").is_file()
    assert (desk / "gallery.html").is_file()


def test_commands_that_only_tell_something_run() -> None:
    assert '"$defs"' in run("schema")
    assert "unet_cbam" in run("models")
    assert "image-missing" in run("data", "validate", "--codes")


def _texts(command: Any) -> Iterator[str]:
    yield command.help or ""
    for parameter in command.params:
        yield str(getattr(parameter, "help", "") or "")
    for inner in getattr(command, "commands", {}).values():
        yield from _texts(inner)


def _named(text: str) -> list[str]:
    """Commands of ours that a text of the program names: `segdist` and the words of a command."""
    return re.findall(r"\bsegdist ((?:data|label review|label|paligemma) [a-z][a-z-]+|[a-z-]+ (?=[A-Z]{3,}|`))", text)


def test_help_and_messages_name_only_commands_that_exist() -> None:
    texts = list(_texts(typer.main.get_command(app)))
    for file in Path("segdist").rglob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text("utf-8")))
        texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    named = {name.strip() for text in texts for name in _named(text)}
    assert len(named) > 8
    for name in named - {"data set", "data sets", "label make"}:
        command: Any = typer.main.get_command(app)
        for word in name.split():
            assert word in command.commands, f"there is no `segdist {name}`"
            command = command.commands[word]


def test_an_override_is_told_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.yaml").write_text("name: x\n")
    files, overrides = files_and_overrides(["a.yaml", "lr=1.yaml", "lr=2", "~space.x"])
    assert (files, overrides) == (["a.yaml", "lr=1.yaml"], ["lr=2", "~space.x"])


@pytest.mark.parametrize("document", [*DOCUMENTS, "cluster/README.md", "dashboards/README.md"])
def test_what_a_document_links_to_is_there(document: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", Path(document).read_text("utf-8")):
        path, _, heading = link.partition("#")
        target = Path(document).parent / path if path else Path(document)
        assert target.exists(), f"{document}: {link}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, link
