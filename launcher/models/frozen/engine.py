"""The frozen part of a network as inference: no autograd, BatchNorm folded, AMP's precision, compiled when that repays.

It works on a copy of the frozen weights; the network keeps its own, which are what is saved and hashed.
B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from launcher.errors import UserError
from launcher.models.frozen.split import Values
from launcher.text import one_line

COMPILE_FLOP = {"cpu": 5e13, "cuda": 2e15}
"""Work from which on compiling is tried. ResNet-50 (8 GFLOP an image) takes 34 s to compile on two CPU cores, 7 s when
inductor's cache has it, and gives 1.1 to 1.25 times as many images/s, more where the CPU has AMX. For CUDA: a guess,
never measured."""

CPU_PIXELS = 16 * 224 * 224
"""Of images that pass through the layers together on a CPU, so that what a layer leaves in the caches is there for the
next: ResNet-50 gave 1.08 times as many images/s in parts of 16 as in parts of 32, compiled 1.15 times."""


class Engine:
    """Call it with images_BCHW; it gives the values at the boundary."""

    def __init__(
        self, prefix: fx.GraphModule, autocast: Callable[[], AbstractContextManager[None]], dtype: torch.dtype | None
    ) -> None:
        """`dtype`: what AMP computes convolutions and products in; None without AMP."""
        module = _fold_batchnorm(copy.deepcopy(prefix).eval()).requires_grad_(False)
        for part in module.modules():
            if dtype is not None and (_is_plain(part, nn.Conv2d) or _is_plain(part, nn.Linear)):
                part.to(dtype)  # once, and not in every batch
        self._eager = module
        self._module: Callable[[Tensor], Values] = module
        self._autocast = autocast
        self._compiled_for: int | None = None

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Values:
        size = self._compiled_for or images_at_once(images_BCHW)
        with self._autocast():
            if len(images_BCHW) == size:
                return tuple(self._module(images_BCHW))
            chunks = [tuple(self._module(self._padded(chunk_BCHW))) for chunk_BCHW in torch.split(images_BCHW, size)]
            return tuple(torch.cat(values)[: len(images_BCHW)] for values in zip(*chunks, strict=True))

    def _padded(self, images_BCHW: Tensor) -> Tensor:
        missing = (self._compiled_for or 0) - len(images_BCHW)
        return nn.functional.pad(images_BCHW, (0, 0, 0, 0, 0, 0, 0, missing)) if missing > 0 else images_BCHW

    def count_flop(self, image_1CHW: Tensor) -> int:
        """Floating point operations for one image: convolutions and matrix products."""
        with FlopCounterMode(display=False) as counter:
            self(image_1CHW)
        return int(counter.get_total_flops())

    def compile(self, images_BCHW: Tensor) -> None:
        """Compile for batches like this one; others are cut and padded to fit. Raise UserError when that fails."""
        self._module = torch.compile(self._eager, dynamic=False, options={"freezing": True})
        self._compiled_for = images_at_once(images_BCHW)
        try:
            self(images_BCHW)
        except Exception as error:  # of the compiler: many kinds
            self.forget_compiled()
            reason = one_line(error)[:200]
            raise UserError(f"strategy.compile: {reason}; set it to off, or install a C++ compiler") from None

    def forget_compiled(self) -> None:
        self._module, self._compiled_for = self._eager, None


def images_at_once(images_BCHW: Tensor) -> int:
    """How many images of this batch pass through the layers together: the fewest equal parts that CPU_PIXELS allows."""
    num, _, height, width = images_BCHW.shape
    if images_BCHW.device.type != "cpu":
        return num
    num_chunks = -(-num * height * width // CPU_PIXELS)
    return -(-num // max(min(num, num_chunks), 1))


def should_compile(
    wanted: Literal["auto", "on", "off"], flop_per_image: int, num_images: int, device_type: str
) -> tuple[bool, str]:
    """Whether to compile for so many images of one process, and why, in words."""
    if wanted != "auto":
        return wanted == "on", f"strategy.compile is {wanted}"
    work, least = flop_per_image * num_images, COMPILE_FLOP[device_type]
    words = f"{num_images:,} images of {flop_per_image / 1e9:.1f} GFLOP"
    if work < least:
        return False, f"{words} would not repay the compilation"
    return True, f"{words} repay the compilation"


def _fold_batchnorm(module: fx.GraphModule) -> fx.GraphModule:
    """Scale each convolution by the BatchNorm that alone follows it, and leave that out."""
    used: dict[str, int] = {}
    for node in module.graph.nodes:
        name = str(node.target) if node.op == "call_module" else str(node.target).rpartition(".")[0]
        if node.op in ("call_module", "get_attr"):
            used[name] = used.get(name, 0) + 1
    for node in list(module.graph.nodes):
        conv_node = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(conv_node, fx.Node) or conv_node.op != "call_module" or len(conv_node.users) > 1:
            continue
        names = str(conv_node.target), str(node.target)
        conv, norm = (module.get_submodule(name) for name in names)
        if _is_plain(conv, nn.Conv2d) and _is_plain(norm, nn.BatchNorm2d) and {used[name] for name in names} == {1}:
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            if norm.running_mean is None:
                continue  # it normalises by each batch
            _replace(module, names[0], fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(conv_node)
            module.graph.erase_node(node)
    module.recompile()
    return module


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of this kind and computes as that does: timm's standardised convolutions do not."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)
