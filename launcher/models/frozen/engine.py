"""The frozen part of a network as inference: no autograd, BatchNorm folded, AMP's precision, compiled when it repays.

It has a copy of the frozen weights; the network keeps its own, which are saved and hashed.
B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, TypeGuard, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from launcher.errors import UserError
from launcher.models.frozen.split import Values
from launcher.text import one_line

M = TypeVar("M", bound=nn.Module)

COMPILE_FLOP = {"cpu": 5e13, "cuda": 2e15}
"""FLOP of a stage from which compiling repays. ResNet-50 (8 GFLOP per image) compiles in 34 s on two CPU cores, in 7 s
from inductor's cache, and then gives 1.1 to 1.25 times as many images/s, more on CPUs with AMX. CUDA: a guess, never
measured."""

CPU_PIXELS = 16 * 224 * 224
"""Pixels per forward pass on a CPU: so many that the output of a layer is still in the caches for the next. ResNet-50
gave 1.08 times as many images/s in chunks of 16 as in chunks of 32, compiled 1.15 times."""


class Engine:
    """Callable: images_BCHW -> values at the boundary."""

    def __init__(
        self, frozen: fx.GraphModule, autocast: Callable[[], AbstractContextManager[None]], dtype: torch.dtype | None
    ) -> None:
        """`dtype`: type in which AMP computes convolutions and matrix products; None without AMP."""
        module = _fold_batchnorm(copy.deepcopy(frozen).eval()).requires_grad_(False)
        for layer in module.modules():
            if dtype is not None and (_is_plain(layer, nn.Conv2d) or _is_plain(layer, nn.Linear)):
                layer.to(dtype)  # once instead of in every batch
        self._eager = module
        self._module: Callable[[Tensor], Values] = module
        self._autocast = autocast
        self._compiled_batch: int | None = None

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Values:
        size = self._compiled_batch or chunk_size(images_BCHW)
        with self._autocast():
            if len(images_BCHW) == size:
                return tuple(self._module(images_BCHW))
            chunks = [tuple(self._module(self._padded(chunk_BCHW))) for chunk_BCHW in torch.split(images_BCHW, size)]
            return tuple(torch.cat(values)[: len(images_BCHW)] for values in zip(*chunks, strict=True))

    def _padded(self, images_BCHW: Tensor) -> Tensor:
        missing = (self._compiled_batch or 0) - len(images_BCHW)
        return nn.functional.pad(images_BCHW, (0, 0, 0, 0, 0, 0, 0, missing)) if missing > 0 else images_BCHW

    def count_flop(self, image_1CHW: Tensor) -> int:
        """Floating point operations per image, of convolutions and matrix products."""
        with FlopCounterMode(display=False) as counter:
            self(image_1CHW)
        return int(counter.get_total_flops())

    def compile(self, images_BCHW: Tensor) -> None:
        """Compile for batches of this size; others are split and padded to it. Raise UserError when that fails."""
        self._module = torch.compile(self._eager, dynamic=False, options={"freezing": True})
        self._compiled_batch = chunk_size(images_BCHW)
        try:
            self(images_BCHW)
        except Exception as error:  # the compiler raises many kinds
            self.use_eager()
            reason = one_line(error)[:200]
            raise UserError(f"strategy.compile: {reason}; set it to off, or install a C++ compiler") from None

    def use_eager(self) -> None:
        """Undo `compile`."""
        self._module, self._compiled_batch = self._eager, None


def chunk_size(images_BCHW: Tensor) -> int:
    """Images per forward pass of this batch: on a CPU the fewest equal chunks that CPU_PIXELS allows, elsewhere all."""
    num, _, height, width = images_BCHW.shape
    if images_BCHW.device.type != "cpu":
        return num
    num_chunks = -(-num * height * width // CPU_PIXELS)
    return -(-num // max(min(num, num_chunks), 1))


def should_compile(
    wanted: Literal["auto", "on", "off"], flop_per_image: int, num_images: int, device_type: str
) -> tuple[bool, str]:
    """Whether to compile for `num_images` of one rank, and why, as text."""
    if wanted != "auto":
        return wanted == "on", f"strategy.compile is {wanted}"
    work = f"{num_images:,} images of {flop_per_image / 1e9:.1f} GFLOP"
    if flop_per_image * num_images < COMPILE_FLOP[device_type]:
        return False, f"{work} would not repay the compilation"
    return True, f"{work} repay the compilation"


def _fold_batchnorm(module: fx.GraphModule) -> fx.GraphModule:
    """Scale each convolution by the BatchNorm that alone follows it, and remove that.

    Not by `torch.fx.experimental.optimization.fuse`: it gives other values for a convolution that is used twice, and
    for a linear layer whose BatchNorm is over tokens.
    """
    uses = Counter(
        str(node.target) if node.op == "call_module" else str(node.target).rpartition(".")[0]
        for node in module.graph.nodes
        if node.op in ("call_module", "get_attr")
    )
    for node in list(module.graph.nodes):
        conv_node = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(conv_node, fx.Node) or conv_node.op != "call_module" or len(conv_node.users) > 1:
            continue
        names = str(conv_node.target), str(node.target)
        conv, norm = (module.get_submodule(name) for name in names)
        if _is_plain(conv, nn.Conv2d) and _is_plain(norm, nn.BatchNorm2d) and {uses[name] for name in names} == {1}:
            if norm.running_mean is None:
                continue  # it normalises by the statistics of each batch
            module.set_submodule(names[0], fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(conv_node)
            module.graph.erase_node(node)
    module.recompile()
    return module


def _is_plain(module: nn.Module, kind: type[M]) -> TypeGuard[M]:
    """Whether it computes as this kind does: timm's standardised convolutions do not."""
    return isinstance(module, kind) and type(module).forward is kind.forward
