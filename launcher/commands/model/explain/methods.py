"""How much each pixel of a picture speaks for a class. The only importer of captum, which is optional.

C channels, H x W pixels, K classes, O outputs of the network, N pictures to begin from. What is left out, or begun
from, is the mean colour that normalisation takes away: zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.commands.model.explain.layer import find_map_layer
from launcher.errors import UserError

Method = Literal["occlusion", "gradient-shap", "integrated-gradients", "gradcam"]

FORWARD_PIXELS = 1 << 21
"""Of the pictures that are in a forward pass at a time: 41 of 224 x 224."""
MAX_FORWARD = 256
"""Pictures at a time, however small."""
NOISE = 0.15
"""Standard deviation, in normalised levels, of what gradient-shap adds to the picture."""


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """`window`, `stride`: pixels, of occlusion. `samples`: of gradient-shap, and steps of integrated-gradients."""

    method: Method
    window: int = 15
    stride: int = 8
    samples: int = 50


APPLY: Mapping[str, tuple[Method, ...]] = {
    "window": ("occlusion",),
    "stride": ("occlusion",),
    "samples": ("gradient-shap", "integrated-gradients"),
}
"""Methods that an option is for."""


def choose_method_options(method: Method, **given: int | None) -> MethodOptions:
    """`given`: what is None has its default. Raise UserError for what has no effect with the method, or cannot be."""
    wanted = {name: number for name, number in given.items() if number is not None}
    for name, number in wanted.items():
        if method not in APPLY[name]:
            meant = " and ".join(APPLY[name])
            raise UserError(f"--{name} {number}: has no effect with --method {method}, only with {meant}; leave it out")
        if number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")
    method_options = MethodOptions(method, **wanted)
    if method_options.stride > method_options.window:
        raise UserError(
            f"--stride {method_options.stride}: pixels between windows of {method_options.window} would be left out"
        )
    return method_options


class Scores(nn.Module):
    """The network with one score for each class: images_BCHW -> scores_BK, where a single logit is l for class 1 and
    -l for class 0, so that each class has what speaks for it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        outputs_BO: Tensor = self.model(images_BCHW).float()
        return outputs_BO if outputs_BO.shape[1] > 1 else torch.cat([-outputs_BO, outputs_BO], dim=1)


@dataclass(frozen=True)
class Explainer:
    """`extremes_NC11`: black and white, normalised: gradient-shap begins now from this, now from that."""

    scores: Scores
    method_options: MethodOptions
    extremes_NC11: Tensor

    def __call__(self, image_1CHW: Tensor, target: int, seed: int) -> Tensor:
        """heat_HW, on the device of the image: positive where a pixel speaks for class `target`.

        The same for the same `seed`. Raise UserError when the method cannot be used with this network or size.
        """
        compute = {
            "occlusion": self._occlusion,
            "gradient-shap": self._gradient_shap,
            "integrated-gradients": self._integrated_gradients,
            "gradcam": self._gradcam,
        }[self.method_options.method]
        with _keyed(seed, image_1CHW.device):
            attribution_1CHW = compute(image_1CHW, target)
        return attribution_1CHW.detach().float().sum(1)[0]

    def _occlusion(self, image_1CHW: Tensor, target: int) -> Tensor:
        window, stride = self.method_options.window, self.method_options.stride
        height, width = image_1CHW.shape[2:]
        if window > min(height, width):
            raise UserError(f"--window {window}: the network sees {height} x {width} pixels; take less")
        occlusion = import_captum().Occlusion(self.scores)
        # The heat of a pixel: how much the score falls when it is covered, on average over the windows that do.
        with torch.no_grad():
            attribution_1CHW: Tensor = occlusion.attribute(
                image_1CHW,
                sliding_window_shapes=(image_1CHW.shape[1], window, window),
                strides=(image_1CHW.shape[1], stride, stride),
                target=target,
                perturbations_per_eval=count_at_once(image_1CHW),
            )
        return attribution_1CHW[:, :1]  # every channel is covered at once: the others are the same

    def _gradient_shap(self, image_1CHW: Tensor, target: int) -> Tensor:
        shap = import_captum().GradientShap(self.scores)
        samples, at_once = self.method_options.samples, count_at_once(image_1CHW)
        extremes_NCHW = self.extremes_NC11.expand(-1, -1, *image_1CHW.shape[2:])
        total_1CHW = torch.zeros_like(image_1CHW)
        for start in range(0, samples, at_once):
            num = min(at_once, samples - start)
            attribution_1CHW = shap.attribute(image_1CHW, extremes_NCHW, n_samples=num, stdevs=NOISE, target=target)
            total_1CHW += attribution_1CHW.detach() * num
        return total_1CHW / samples

    def _integrated_gradients(self, image_1CHW: Tensor, target: int) -> Tensor:
        attribution_1CHW: Tensor = (
            import_captum()
            .IntegratedGradients(self.scores)
            .attribute(
                image_1CHW,
                target=target,
                n_steps=self.method_options.samples,
                internal_batch_size=count_at_once(image_1CHW),
            )
        )
        return attribution_1CHW

    def _gradcam(self, image_1CHW: Tensor, target: int) -> Tensor:
        layer = self.scores.model.get_submodule(find_map_layer(self.scores.model, image_1CHW))
        gradcam = import_captum().LayerGradCam(self.scores, layer)
        map_11hw = gradcam.attribute(image_1CHW, target=target, relu_attributions=True)
        return F.interpolate(map_11hw, image_1CHW.shape[2:], mode="bilinear", align_corners=False)


def count_at_once(image_1CHW: Tensor) -> int:
    """Pictures of this size that a forward pass may have."""
    return max(1, min(MAX_FORWARD, FORWARD_PIXELS // image_1CHW[0, 0].numel()))


@contextmanager
def _keyed(seed: int, device: torch.device) -> Iterator[None]:
    """Captum draws from the generators of torch and numpy that everybody uses: they are given back as they were."""
    before = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)


def import_captum() -> ModuleType:
    """Raise UserError when it is not there."""
    try:
        import captum.attr
    except ImportError:
        raise UserError("explain: captum is not installed; pip install 'launcher[explain]'") from None
    module: ModuleType = captum.attr
    return module
