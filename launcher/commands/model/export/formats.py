"""The formats of an exported network: how each is written, and how it is read back to be checked.

B batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.checkpoint.tensor_file import write_tensors
from launcher.commands.model.export.describe import Metadata, describe_architecture, describe_processor
from launcher.commands.model.export.onnx import import_libraries, open_onnx, read_onnx_metadata, write_onnx
from launcher.commands.model.infer import Probabilities
from launcher.commands.model.load import TrainedModel, build_network
from launcher.commands.model.options import ExportFormat

Predict = Callable[[Tensor], Tensor]
"""images_BCHW -> probs_BK."""

WEIGHTS_NAME = "model.safetensors"
METADATA_NAME = "launcher.json"
"""Name of the metadata in a folder of the hub and in a TorchScript file."""


@dataclass(frozen=True)
class Exporter:
    """One format. `open` and `read_metadata` use only what was written; weights alone need the architecture, too."""

    suffix: str
    """End of the file's or folder's name."""
    check: Callable[[NetworkSpec], object]
    """Raise UserError when the network cannot be exported in this format."""
    write: Callable[[Path, TrainedModel, Metadata, Tensor], None]
    """Called with an example_BCHW."""
    open: Callable[[Path, NetworkSpec], Predict]
    read_metadata: Callable[[Path], Metadata]


# TorchScript warns that it is deprecated, and of shapes taken for constants, which are checked.
_quiet = partial(warnings.catch_warnings, action="ignore")


def _write_torchscript(path: Path, trained: TrainedModel, metadata: Metadata, example_BCHW: Tensor) -> None:
    with _quiet():
        traced = torch.jit.trace(Probabilities(trained.model).eval(), example_BCHW, check_trace=False)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced)
        torch.jit.save(frozen, str(path), _extra_files={METADATA_NAME: json.dumps(metadata)})


def _open_torchscript(path: Path, spec: NetworkSpec) -> Predict:
    with _quiet():
        loaded: Predict = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return loaded


def _read_torchscript_extra(path: Path) -> Metadata:
    extra = {METADATA_NAME: ""}
    with _quiet():
        torch.jit.load(str(path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    metadata: Metadata = json.loads(extra[METADATA_NAME])
    return metadata


def _write_weights(path: Path, trained: TrainedModel, metadata: Metadata, _: Tensor) -> None:
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    write_tensors(path, trained.model.state_dict(), texts)


def _open_weights(path: Path, spec: NetworkSpec) -> Predict:
    model = build_network(spec)
    model.load_state_dict(load_file(path))
    return Probabilities(model).eval()


def _read_weights_extra(path: Path) -> Metadata:
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(text) for name, text in file.metadata().items() if name != "format"}


def _write_hf(path: Path, trained: TrainedModel, metadata: Metadata, example_BCHW: Tensor) -> None:
    path.mkdir()
    config, processor = describe_architecture(trained.spec), describe_processor(trained.spec)
    files = {"config.json": config, "preprocessor_config.json": processor, METADATA_NAME: metadata}
    for name, content in files.items():
        (path / name).write_text(json.dumps(content, indent=2) + "\n")
    _write_weights(path / WEIGHTS_NAME, trained, {}, example_BCHW)


EXPORTERS: dict[ExportFormat, Exporter] = {
    "torchscript": Exporter(".pt", lambda spec: None, _write_torchscript, _open_torchscript, _read_torchscript_extra),
    "onnx": Exporter(
        ".onnx", lambda spec: import_libraries(), write_onnx, lambda path, spec: open_onnx(path), read_onnx_metadata
    ),
    "safetensors": Exporter(".safetensors", lambda spec: None, _write_weights, _open_weights, _read_weights_extra),
    "hf": Exporter(
        "-hf",
        describe_processor,
        _write_hf,
        lambda path, spec: _open_weights(path / WEIGHTS_NAME, spec),
        lambda path: json.loads((path / METADATA_NAME).read_text()),
    ),
}
