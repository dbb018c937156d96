"""Files of tensors, against the safetensors library that reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from launcher.checkpoint import tensor_file
from launcher.checkpoint.tensor_file import TensorFile, write_tensors

TENSORS: dict[str, Tensor] = {
    "convolution": torch.randn(5, 3, 7, 7).to(memory_format=torch.channels_last),
    "part": torch.randn(4, 6)[:, ::2],
    "turned": torch.randn(3, 8).t(),
    "one number": torch.tensor(3.5),
    "nothing": torch.empty(0, 4),
    "odd": torch.arange(7, dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
    "count": torch.tensor(12, dtype=torch.int64),
    "half": torch.randn(3).half(),
    "bfloat16": torch.randn(3, 3).bfloat16(),
    "double": torch.randn(2, dtype=torch.float64),
    "bytes": torch.arange(-3, 3, dtype=torch.int8),
    "int32": torch.arange(3, dtype=torch.int32),
    "int16": torch.arange(3, dtype=torch.int16),
}


def assert_holds(file: Path, tensors: dict[str, Tensor]) -> None:
    found = load_file(file)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS)
    assert_holds(tmp_path / "a", TENSORS)


def test_a_copy_is_what_tensors_were_and_memory_is_used_again(tmp_path: Path) -> None:
    laid_out = TensorFile(TENSORS)
    for number in range(2):
        tensors = {name: tensor.clone() for name, tensor in TENSORS.items()}
        tensors["count"] += number
        assert laid_out.fits(tensors)
        laid_out.copy(tensors)
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.zero_()
        laid_out.write(tmp_path / f"{number}", {"number": f"{number}"})
        assert_holds(tmp_path / f"{number}", before)
        with safe_open(tmp_path / f"{number}", "pt") as opened:
            assert opened.metadata() == {"format": "pt", "number": f"{number}"}


def test_other_tensors_do_not_fit() -> None:
    laid_out = TensorFile(TENSORS)
    assert not laid_out.fits({**TENSORS, "more": torch.zeros(1)})
    assert not laid_out.fits({**TENSORS, "half": torch.randn(3)})
    assert not laid_out.fits({**TENSORS, "half": torch.randn(4).half()})


def test_files_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", 100)
    write_tensors(tmp_path / "a", TENSORS)
    assert_holds(tmp_path / "a", TENSORS)


def test_no_tensors(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {})
    assert load_file(tmp_path / "a") == {}
