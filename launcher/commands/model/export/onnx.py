"""ONNX files, and running them. The only importer of onnx, onnxscript and onnxruntime, which are optional."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher.commands.model.export.describe import INPUT_NAME, OUTPUT_NAME, Metadata
from launcher.commands.model.infer import Probabilities
from launcher.commands.model.load import TrainedModel
from launcher.errors import UserError


def write_onnx(path: Path, trained: TrainedModel, metadata: Metadata, example_BCHW: Tensor) -> None:
    """Write a network for any batch size, with each entry of `metadata` as JSON in the file's metadata."""
    onnx, _ = import_libraries()
    # The exporter warns about itself; its result is checked against the network.
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            Probabilities(trained.model).eval(),
            (example_BCHW,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    program.save(path, external_data=False)
    onnx.checker.check_model(str(path))


def open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """images_BCHW -> probs_BK, computed by onnxruntime from the file."""
    _, onnxruntime = import_libraries()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images_BCHW: torch.from_numpy(session.run(None, {INPUT_NAME: images_BCHW.numpy()})[0])


def read_onnx_metadata(path: Path) -> Metadata:
    onnx, _ = import_libraries()
    return {each.key: json.loads(each.value) for each in onnx.load(path).metadata_props}


def import_libraries() -> tuple[Any, Any]:
    """onnx and onnxruntime. Raise UserError when a library is missing."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(f"--format onnx: {error.name} is not installed; pip install 'launcher[export]'") from None
    return onnx, onnxruntime
