"""Safetensors files laid out in memory as on the disk: a thread writes one in a few large calls.

`safetensors.torch.save_file` takes each tensor by itself, copies it to Python bytes and holds Python's lock meanwhile:
training beside it stands still. What is written here, that library reads. Format: https://github.com/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

PIECE_BYTES = 1 << 25
"""Written at once. Each piece asks for Python's lock anew."""

_ALIGNMENT = 8
NO_FACTS: Mapping[str, str] = {}

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorFile:
    """Room in memory of the host for tensors of these names, types, shapes and strides, and the file of it.

    Pinned where they are on a GPU, so that a copy takes its turn in the GPU's work while the host goes on.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        # The largest numbers first, so that each tensor lies at a multiple of its own number's size.
        names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        is_pinned = any(tensor.is_cuda for tensor in tensors.values())
        self._bytes_N = torch.empty(sum(map(_count_bytes, tensors.values())), dtype=torch.uint8, pin_memory=is_pinned)
        self.tensors: dict[str, Tensor] = {}
        self._header: dict[str, object] = {}
        self._turned: list[tuple[Tensor, Tensor]] = []
        """Tensors that lie otherwise than in the file, and the same place as it will be there. Made beforehand, as each
        operation of torch asks for Python's lock again."""
        stop = 0
        for name in names:
            tensor = tensors[name]
            start, stop = stop, stop + _count_bytes(tensor)
            strides = torch.empty_like(tensor, device="meta").stride()
            numbers_N = self._bytes_N[start:stop].view(tensor.dtype)
            self.tensors[name] = place = numbers_N.as_strided(tensor.shape, strides)
            if not place.is_contiguous():
                self._turned.append((place, numbers_N.view(tensor.shape)))
            self._header[name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, stop],
            }

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        return self.tensors.keys() == tensors.keys() and all(
            place.shape == tensors[name].shape and place.dtype == tensors[name].dtype
            for name, place in self.tensors.items()
        )

    def copy(self, tensors: Mapping[str, Tensor]) -> None:
        """Strides are kept: to put channels in another order is for whoever writes it."""
        if self.tensors:
            sources = [tensors[name].detach() for name in self.tensors]
            torch._foreach_copy_(list(self.tensors.values()), sources, non_blocking=True)

    def write(self, file: Path, metadata: Mapping[str, str]) -> None:
        """Once for each copy: afterwards the tensors are no more what they were. Raise OSError."""
        for place, row_by_row in self._turned:
            row_by_row.copy_(place.contiguous())
        header = json.dumps({"__metadata__": {"format": "pt", **metadata}, **self._header}).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        with file.open("wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            content = self._bytes_N.numpy()
            for start in range(0, len(content), PIECE_BYTES):
                out.write(content[start : start + PIECE_BYTES].data)


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = NO_FACTS) -> None:
    """Raise OSError."""
    laid_out = TensorFile(tensors)
    laid_out.copy(tensors)
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.synchronize()
    laid_out.write(file, metadata)


def _count_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
