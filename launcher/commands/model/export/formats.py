"""The forms of an exported network: how each is written, and how it is read back to be checked.

B batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.checkpoint.network_spec import Card
from launcher.checkpoint.tensor_file import write_tensors
from launcher.commands.model.export.describe import Facts, describe_architecture, describe_processor
from launcher.commands.model.export.onnx import check_installed, open_onnx, read_onnx_facts, write_onnx
from launcher.commands.model.load import Trained
from launcher.models.loss import class_scores, count_outputs
from launcher.models.zoo import build_trained

Format = Literal["torchscript", "onnx", "safetensors", "hf"]
Predict = Callable[[Tensor], Tensor]
"""images_BCHW -> probs_BK."""

WEIGHTS_NAME = "model.safetensors"
FACTS_NAME = "launcher.json"
"""Of a hub's folder, and of what a TorchScript file has beside its code."""


class Probabilities(nn.Module):
    """The network with what makes probabilities of its outputs: images_BCHW -> probs_BK."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return class_scores(self.model(images_BCHW)).float().softmax(1)


@dataclass(frozen=True)
class Form:
    """`suffix` of the name. `check` raises UserError when it cannot be made of this network, `write` makes it,
    `open` and `read_facts` know nothing but what was written, and the architecture where it holds weights alone."""

    suffix: str
    check: Callable[[Card], object]
    write: Callable[[Path, Trained, Facts, Tensor], None]
    open: Callable[[Path, Card], Predict]
    read_facts: Callable[[Path], Facts]


@contextmanager
def _quiet() -> Iterator[None]:
    """TorchScript warns that it will be given up, and of shapes that it takes for constants; these are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_torchscript(path: Path, trained: Trained, facts: Facts, example_BCHW: Tensor) -> None:
    with _quiet():
        traced = torch.jit.trace(Probabilities(trained.network.model).eval(), example_BCHW, check_trace=False)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(traced)
        torch.jit.save(frozen, str(path), _extra_files={FACTS_NAME: json.dumps(facts)})


def _open_torchscript(path: Path, card: Card) -> Predict:
    with _quiet():
        loaded: Predict = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return loaded


def _read_torchscript_facts(path: Path) -> Facts:
    extra = {FACTS_NAME: ""}
    with _quiet():
        torch.jit.load(str(path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    facts: Facts = json.loads(extra[FACTS_NAME])
    return facts


def _write_onnx(path: Path, trained: Trained, facts: Facts, example_BCHW: Tensor) -> None:
    write_onnx(path, Probabilities(trained.network.model).eval(), facts, example_BCHW)


def _write_weights(path: Path, trained: Trained, facts: Facts, _: Tensor) -> None:
    write_tensors(path, trained.network.model.state_dict(), {name: json.dumps(value) for name, value in facts.items()})


def _open_weights(path: Path, card: Card) -> Predict:
    network = build_trained(card.recipe.backbone, count_outputs(card.recipe.loss, len(card.classes)))
    network.model.load_state_dict(load_file(path))
    return Probabilities(network.model).eval()


def _read_weights_facts(path: Path) -> Facts:
    with safe_open(path, framework="pt") as file:
        return {name: json.loads(text) for name, text in file.metadata().items() if name != "format"}


def _write_hf(path: Path, trained: Trained, facts: Facts, example_BCHW: Tensor) -> None:
    card = trained.card
    path.mkdir()
    config = describe_architecture(card, count_outputs(card.recipe.loss, len(card.classes)))
    texts = {"config.json": config, "preprocessor_config.json": describe_processor(card), FACTS_NAME: facts}
    for name, content in texts.items():
        (path / name).write_text(json.dumps(content, indent=2) + "\n")
    _write_weights(path / WEIGHTS_NAME, trained, {}, example_BCHW)


FORMS: dict[Format, Form] = {
    "torchscript": Form(".pt", lambda card: None, _write_torchscript, _open_torchscript, _read_torchscript_facts),
    "onnx": Form(
        ".onnx", lambda card: check_installed(), _write_onnx, lambda path, card: open_onnx(path), read_onnx_facts
    ),
    "safetensors": Form(".safetensors", lambda card: None, _write_weights, _open_weights, _read_weights_facts),
    "hf": Form(
        "-hf",
        describe_processor,
        _write_hf,
        lambda path, card: _open_weights(path / WEIGHTS_NAME, card),
        lambda path: json.loads((path / FACTS_NAME).read_text()),
    ),
}
