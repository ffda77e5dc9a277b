"""Files of weights from anywhere: their tensors, or an error that names the file; nothing runs, little memory goes."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segdist.core.errors import StorageError, WeightsError
from segdist.nets import state_dicts

GOOD = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16), "c": torch.tensor(3)}


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def legacy(content: Any, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=False)


def zipped(parts: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)

    return write


def saved(content: Any) -> Callable[[Path], object]:
    return lambda file: torch.save(content, file)


def repacked(
    content: Any, change: Callable[[dict[str, bytes]], dict[str, bytes]], **how: Any
) -> Callable[[Path], object]:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return zipped(change(parts), **how)


def headed(header: Any, body: bytes = b"") -> Callable[[Path], object]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda file: file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def nothing_but_names(file: Path) -> None:
    headed({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)})(file)


def cut(file: Path) -> None:
    torch.save(GOOD, file)
    file.write_bytes(file.read_bytes()[:-40])


def twice(file: Path) -> None:
    torch.save(GOOD, file)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr(archive.namelist()[0], pickle.dumps({}))


def sparse() -> torch.Tensor:
    return torch.sparse_coo_tensor(
        torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6), check_invariants=True
    )


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


PICKLES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("no weights"),
    "cut": cut,
    "calls": saved({"a": Calls(os.mkdir, "it-ran")}),
    "calls_eval": saved({"a": Calls(eval, "open('it-ran', 'w')")}),
    "calls_in_old_form": lambda file: legacy({"a": Calls(os.mkdir, "it-ran")}, file),
    "memory": saved({"a": Calls(bytearray, 10**11)}),
    "memory_of_a_tensor": saved({"a": Calls(torch.Tensor, 10**11)}),
    "code": saved(torch.nn.Linear(2, 2)),
    "no_tensor": saved({"a": 3}),
    "no_names": saved([torch.zeros(2)]),
    "numbers_for_names": saved({1: torch.zeros(2)}),
    "expanded": saved({"a": torch.zeros(1).expand(10**6, 10**6)}),
    "beyond_its_storage": saved({"a": Calls(torch._utils._rebuild_tensor_v2, torch.zeros(1).untyped_storage(), 0,
                                            (10**11,), (1,), False, OrderedDict())}),
    "sparse": lambda file: torch.save({"a": sparse()}, file),
    "quantised": lambda file: torch.save({"a": quantised()}, file),
    "complex": saved({"a": torch.ones(2, dtype=torch.complex64)}),
    "on_no_device": saved({"a": torch.zeros(10**6, 10**6, device="meta")}),
    "nan": saved({"a": torch.tensor([1.0, float("nan")])}),
    "infinity": saved({"a": torch.tensor([float("-inf")])}),
    "bomb": repacked({"a": torch.zeros(10**7)}, dict, compression=zipfile.ZIP_DEFLATED),
    "no_pickle": zipped({"archive/version": b"3"}),
    "two_pickles": repacked(GOOD, lambda parts: {**parts, "other/data.pkl": pickle.dumps({}, 2)}),
    "twice": twice,
    "later_protocol": repacked(GOOD, lambda parts: {n: pickle.dumps(OrderedDict(), 5) if n.endswith(".pkl") else c
                                                    for n, c in parts.items()}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore:.*protocol:UserWarning")
@pytest.mark.parametrize("case", PICKLES)
def test_a_hostile_pickle_is_refused_by_name(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PICKLES[case](tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth must"):
        state_dicts.read(str(tmp_path / "weights.pth"))
    assert not Path("it-ran").exists()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("write", [torch.save, legacy, save_file], ids=["torch", "old", "safetensors"])
def test_a_file_that_is_cut_off_is_named_with_its_size_and_what_to_do(
    write: Callable[[Any, Path], None], share: float, tmp_path: Path
) -> None:
    file = tmp_path / ("w.safetensors" if write is save_file else "w.pt")
    write({"a": torch.ones(50, 50)}, file)
    size = int(share * file.stat().st_size)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match=rf"w\.\w+ must [^\n]*is cut off[^\n]* {size:,} bytes\. Fetch it again"):
        state_dicts.read(str(file))


def test_a_page_in_place_of_weights_is_no_file_of_torch(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_text("<!DOCTYPE html><html>not found</html>")
    with pytest.raises(WeightsError, match="no file of torch: it has 37 bytes"):
        state_dicts.read(str(tmp_path / "w.pt"))


SAFE: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("no weights at all"),
    "length_that_lies": lambda file: file.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
    "no_json": headed(b"{" * 1000),
    "deep": headed(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "list": headed([1]),
    "beyond": headed({"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}),
    "shape_that_lies": headed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
    "overflow": headed({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}),
    "overlap": headed({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"\0" * 4),
    "negative": headed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "unknown_type": headed({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "half_bytes": headed({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),
    "nothing_but_names": nothing_but_names,
    "too_long": headed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 9),
    "eighths": lambda file: save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, file),
    "nan": lambda file: save_file({"a": torch.tensor([float("nan")])}, file),
}  # fmt: skip


@pytest.mark.parametrize("case", SAFE)
def test_a_hostile_safetensors_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    SAFE[case](tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"weights\.safetensors must"):
        state_dicts.read(str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("write", [torch.save, legacy, save_file], ids=["torch", "old", "safetensors"])
def test_good_weights_are_read_to_the_bit(write: Callable[[Any, Path], None], tmp_path: Path) -> None:
    file = tmp_path / ("w.safetensors" if write is save_file else "w.pth")
    write(GOOD, file)
    found = state_dicts.read(str(file))
    assert found.keys() == GOOD.keys()
    for name, value in GOOD.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_parameters_and_a_module_s_own_state_are_plain_weights(tmp_path: Path) -> None:
    layer = torch.nn.BatchNorm2d(3)
    torch.save(layer.state_dict(), tmp_path / "a.pth")
    torch.save(dict(layer.named_parameters()), tmp_path / "b.pth")
    assert state_dicts.read(str(tmp_path / "a.pth")).keys() == layer.state_dict().keys()
    assert torch.equal(state_dicts.read(str(tmp_path / "b.pth"))["weight"], layer.weight)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no\.pth"):
        state_dicts.read(str(tmp_path / "no.pth"))


def test_what_fits_has_the_shape_and_the_kind_of_number() -> None:
    wanted = torch.zeros(2, 3)
    assert state_dicts.fits(torch.ones(2, 3, dtype=torch.bfloat16), wanted)
    assert not state_dicts.fits(torch.ones(3, 2), wanted)
    assert not state_dicts.fits(torch.ones(2, 3, dtype=torch.long), wanted)
