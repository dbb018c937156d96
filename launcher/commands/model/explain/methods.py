"""How much each pixel of an image is evidence for a class. The only importer of captum, which is optional.

C channels, H x W pixels, K classes, O outputs of the network, N baseline images. Occluded pixels, and the baseline of
integrated gradients, have the mean color that normalization subtracts: zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.commands.model.options import ExplainOptions, Method
from launcher.errors import UserError, check_at_least_1

FORWARD_PIXELS = 1 << 21
"""Most pixels in a forward pass: 41 images of 224 x 224."""
MAX_FORWARD = 256
"""Most images in a forward pass, however small."""
NOISE = 0.15
"""Standard deviation, in normalized values, of the noise that gradient-shap adds to the image."""
_POOLS = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(nn.FractionalMaxPool2d, nn.LPPool2d),
)


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """The numbers of a method; `ExplainOptions` describes them."""

    method: Method
    window: int = 15
    stride: int = 8
    samples: int = 50


APPLY: Mapping[str, tuple[Method, ...]] = {
    "window": ("occlusion",),
    "stride": ("occlusion",),
    "samples": ("gradient-shap", "integrated-gradients"),
}
"""The methods that use an option."""


def choose_method_options(options: ExplainOptions) -> MethodOptions:
    """Raise UserError for an option that is out of range or has no effect with the method."""
    given = {name: number for name in APPLY if (number := getattr(options, name)) is not None}
    for name, number in given.items():
        if options.method not in APPLY[name]:
            only = " and ".join(APPLY[name])
            what = f"has no effect with --method {options.method}, only with {only}"
            raise UserError(f"--{name} {number}: {what}; leave it out")
        check_at_least_1(**{name: number})
    chosen = MethodOptions(options.method, **given)
    if chosen.stride > chosen.window:
        raise UserError(f"--stride {chosen.stride}: would skip pixels between windows of {chosen.window}; lower it")
    return chosen


@dataclass(frozen=True)
class Explainer:
    model: nn.Module
    """In eval mode."""
    options: MethodOptions
    extremes_NC11: Tensor
    """Black and white, normalized: the baselines that gradient-shap draws from."""

    def __call__(self, image_1CHW: Tensor, target: int, seed: int) -> Tensor:
        """heat_HW, on the device of the image: positive where a pixel is evidence for class `target`.

        `seed` decides what a method draws. Raise UserError when the method does not fit this network or size.
        """
        compute = {
            "occlusion": self._occlusion,
            "gradient-shap": self._gradient_shap,
            "integrated-gradients": self._integrated_gradients,
            "gradcam": self._gradcam,
        }[self.options.method]
        with _keyed(seed, image_1CHW.device):
            attribution_1CHW = compute(image_1CHW, target)
        return attribution_1CHW.detach().float().sum(1)[0]

    def _scores(self, images_BCHW: Tensor) -> Tensor:
        """scores_BK, one for each class. A single logit l becomes -l and l: there is evidence for either class."""
        outputs_BO: Tensor = self.model(images_BCHW).float()
        return outputs_BO if outputs_BO.shape[1] > 1 else torch.cat([-outputs_BO, outputs_BO], dim=1)

    def _occlusion(self, image_1CHW: Tensor, target: int) -> Tensor:
        window, stride = self.options.window, self.options.stride
        height, width = image_1CHW.shape[2:]
        if window > min(height, width):
            raise UserError(f"--window {window}: the network's input is {height} x {width} pixels; choose less")
        occlusion = import_captum().Occlusion(self._scores)
        # The heat of a pixel: the drop of the score when it is covered, averaged over the windows that cover it.
        with torch.no_grad():
            attribution_1CHW: Tensor = occlusion.attribute(
                image_1CHW,
                sliding_window_shapes=(image_1CHW.shape[1], window, window),
                strides=(image_1CHW.shape[1], stride, stride),
                target=target,
                perturbations_per_eval=max_forward_images(image_1CHW),
            )
        return attribution_1CHW[:, :1]  # all channels are covered at once: the others are the same

    def _gradient_shap(self, image_1CHW: Tensor, target: int) -> Tensor:
        shap = import_captum().GradientShap(self._scores)
        samples, at_once = self.options.samples, max_forward_images(image_1CHW)
        extremes_NCHW = self.extremes_NC11.expand(-1, -1, *image_1CHW.shape[2:])
        total_1CHW = torch.zeros_like(image_1CHW)
        for start in range(0, samples, at_once):
            num = min(at_once, samples - start)
            attribution_1CHW = shap.attribute(image_1CHW, extremes_NCHW, n_samples=num, stdevs=NOISE, target=target)
            total_1CHW += attribution_1CHW.detach() * num
        return total_1CHW / samples

    def _integrated_gradients(self, image_1CHW: Tensor, target: int) -> Tensor:
        gradients, at_once = import_captum().IntegratedGradients(self._scores), max_forward_images(image_1CHW)
        attribution_1CHW: Tensor = gradients.attribute(
            image_1CHW, target=target, n_steps=self.options.samples, internal_batch_size=at_once
        )
        return attribution_1CHW

    def _gradcam(self, image_1CHW: Tensor, target: int) -> Tensor:
        layer = self.model.get_submodule(find_map_layer(self.model, image_1CHW))
        gradcam = import_captum().LayerGradCam(self._scores, layer)
        map_11hw = gradcam.attribute(image_1CHW, target=target, relu_attributions=True)
        return F.interpolate(map_11hw, image_1CHW.shape[2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def find_map_layer(model: nn.Module, image_1CHW: Tensor) -> str:
    """The layer for grad-CAM: the module with the last output [1, channels, height, width] of more than one position.

    Skips poolings, modules called several times, branches of a block that reduces to one position elsewhere, and maps
    before tokens, [1, tokens, channels]. Raise UserError when there is none.
    """
    calls: Counter[str] = Counter()
    maps: list[str] = []
    single: list[str] = []

    def record(name: str, module: nn.Module, _inputs: object, output: object) -> None:
        calls[name] += 1
        if not isinstance(output, Tensor):
            return
        if output.dim() == 3:
            maps.clear()
        elif output.dim() == 4 and not isinstance(module, _POOLS):
            (maps if output[0, 0].numel() > 1 else single).append(name)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(partial(record, name)))
        model(image_1CHW)
    once = [name for name in maps if calls[name] == 1]
    if not once:
        raise UserError(
            "--method gradcam: this network has no feature map before its pooling; choose occlusion, gradient-shap or "
            "integrated-gradients"
        )
    blocks = tuple(f"{name}." for name in single)
    return ([name for name in once if not name.startswith(blocks)] or once)[-1]


def max_forward_images(image_1CHW: Tensor) -> int:
    """Most images of this size in a forward pass."""
    return max(1, min(MAX_FORWARD, FORWARD_PIXELS // image_1CHW[0, 0].numel()))


@contextmanager
def _keyed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch and numpy, which captum draws from, and restore them afterwards."""
    before = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)


def import_captum() -> ModuleType:
    """Raise UserError when captum is not installed."""
    try:
        import captum.attr
    except ImportError:
        raise UserError("explain: captum is not installed; pip install 'launcher[explain]'") from None
    module: ModuleType = captum.attr
    return module
