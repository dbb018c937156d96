"""Networks whose weights show errors of splitting and folding, and the difference of the two parts from the whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.nn.modules.batchnorm import _BatchNorm

from launcher.models.frozen.engine import Engine
from launcher.models.frozen.freeze import freeze, set_training
from launcher.models.frozen.split import FrozenSplit, split_frozen
from launcher.models.zoo import Network, build_model
from launcher.recipe.backbone import Backbone, ExceptLast, Parts

NUM_OUTPUTS = 50
"""A hundred outputs for two images: enough for a cosine."""

LAST = ExceptLast(except_last=1)

SIDES = {"inception_v3": 96, "lenet": 32, "maxvit_t": 224}

FP64, FP32, BF16 = 1e-10, 1e-4, 1e-3
"""Largest relative difference; in bf16 the largest difference of a cosine from 1. When the whole network itself differs
more than that between bf16 and fp32, twice that difference is the limit."""


def bf16() -> AbstractContextManager[None]:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def quick_normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *_: object, **__: object) -> Tensor:
    """Instead of truncated normal numbers, which take tens of seconds per network."""
    return nn.init.normal_(tensor, mean, std)


def side_of(name: str) -> int:
    return SIDES.get(name, 224 if name.startswith("vit") else 64)


def build_random(name: str, side: int) -> tuple[Network, Tensor]:
    """The network without constant tensors, with BatchNorm statistics near those of two images."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.init.trunc_normal_", quick_normal)
        network = build_model(Backbone(name=name, freeze="backbone"), NUM_OUTPUTS)
    images_BCHW = torch.randn(2, 3, side, side)
    randomise(network.model, images_BCHW)
    return network, images_BCHW


@torch.no_grad()
def randomise(model: nn.Module, images_BCHW: Tensor) -> None:
    for parameter in model.parameters():
        if parameter.min() == parameter.max():  # affine parameters, zero branches, layer scales of 1e-6
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    model(images_BCHW)
    for norm in norms:
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.add_(norm.running_var.sqrt() * torch.randn_like(norm.running_mean), alpha=0.2)
            # Larger than the batch's: otherwise a random network magnifies rounding errors from layer to layer.
            norm.running_var.mul_(torch.rand_like(norm.running_var) + 1.0)
    model.eval()


@dataclass(frozen=True)
class Compared:
    """Largest difference from the whole network over the largest value; `bf16`: difference of the cosine from 1.

    `whole_bf16`: that difference of the whole network in bf16 from itself in fp32.
    """

    boundary: tuple[str, ...]
    fp64: float
    gradients: float
    fp32: float
    bf16: float
    whole_bf16: float

    @property
    def is_same(self) -> bool:
        return max(self.fp64, self.gradients) < FP64 and self.fp32 < FP32 and self.bf16 < max(BF16, 2 * self.whole_bf16)


def compare(network: Network, name: str, parts: Parts, images_BCHW: Tensor) -> Compared:
    """Compare the network, split where `parts` ends and run by the engine, with itself. Raise SplitError."""
    model = network.model
    freeze(network, parts)
    split = split_frozen(model, name, [images_BCHW])
    whole = _forward(model, images_BCHW)
    whole_bf16 = _forward(model, images_BCHW, bf16)
    ours = _forward_split(split, model, images_BCHW)
    ours_bf16 = _forward_split(split, model, images_BCHW, bf16, torch.bfloat16)
    images_BCHW = images_BCHW.double()
    split = split_frozen(
        model.double(), name, [images_BCHW]
    )  # again: constants found by tracing have the model's precision
    exact, ours_exact = _forward(model, images_BCHW), _forward_split(split, model, images_BCHW)
    gradients = _gradient_difference(model, split, images_BCHW)
    model.float()
    return Compared(
        split.boundary,
        fp64=relative(ours_exact, exact),
        gradients=gradients,
        fp32=relative(ours, whole),
        bf16=_angle(ours_bf16, whole),
        whole_bf16=_angle(whole_bf16, whole),
    )


@torch.no_grad()
def _forward(
    model: nn.Module, images_BCHW: Tensor, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Tensor:
    with autocast():
        outputs: Tensor = model.eval()(images_BCHW)
    return outputs


@torch.no_grad()
def _forward_split(
    split: FrozenSplit,
    model: nn.Module,
    images_BCHW: Tensor,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    dtype: torch.dtype | None = None,
) -> Tensor:
    values = Engine(split.frozen, autocast, dtype)(images_BCHW)
    with autocast():
        outputs: Tensor = split.eval_trainable(model).eval().to(images_BCHW.dtype)(*values)
    return outputs


def _gradient_difference(model: nn.Module, split: FrozenSplit, images_BCHW: Tensor) -> float:
    """Largest difference of a gradient in training, with the same random numbers, over the largest gradient."""
    with torch.no_grad():
        values = split.frozen(images_BCHW)
    found: list[dict[str, Tensor]] = []
    forwards: list[Callable[[], Tensor]] = [lambda: model(images_BCHW), lambda: split.trainable(*values)]
    for forward in forwards:
        set_training(model)
        torch.manual_seed(1)
        model.zero_grad()
        outputs = forward()
        (outputs * torch.linspace(-1, 1, outputs.shape[1])).sum().backward()  # type: ignore[no-untyped-call]
        found.append({key: each.grad for key, each in model.named_parameters() if each.grad is not None})
    whole, ours = found
    assert set(whole) == set(ours) == {key for key, each in model.named_parameters() if each.requires_grad}
    model.zero_grad()
    largest = max(float(each.abs().max()) for each in whole.values())
    return max(float((ours[key] - whole[key]).abs().max()) for key in whole) / largest


def relative(ours: Tensor, whole: Tensor) -> float:
    return float((ours.double() - whole.double()).abs().max() / whole.abs().max())


def _angle(ours: Tensor, whole: Tensor) -> float:
    return float(1 - cosine_similarity(ours.double().flatten(), whole.double().flatten(), dim=0))
