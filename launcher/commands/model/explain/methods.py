"""How much each pixel of an image is evidence for a class. The only importer of captum, which is optional.

C channels, H x W pixels, K classes, O outputs of the network, N baseline images. Occluded pixels, and the baseline of
integrated gradients, have the mean color that normalization subtracts: zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.commands.model.explain.layer import find_map_layer
from launcher.commands.model.options import ExplainOptions, Method
from launcher.errors import UserError, check_at_least_1

FORWARD_PIXELS = 1 << 21
"""Most pixels in a forward pass: 41 images of 224 x 224."""
MAX_FORWARD = 256
"""Most images in a forward pass, however small."""
NOISE = 0.15
"""Standard deviation, in normalized values, of the noise that gradient-shap adds to the image."""


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


class Scores(nn.Module):
    """The network with one score per class: images_BCHW -> scores_BK. A single logit l becomes -l and l, so that there
    is evidence for either class."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        outputs_BO: Tensor = self.model(images_BCHW).float()
        return outputs_BO if outputs_BO.shape[1] > 1 else torch.cat([-outputs_BO, outputs_BO], dim=1)


@dataclass(frozen=True)
class Explainer:
    scores: Scores
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

    def _occlusion(self, image_1CHW: Tensor, target: int) -> Tensor:
        window, stride = self.options.window, self.options.stride
        height, width = image_1CHW.shape[2:]
        if window > min(height, width):
            raise UserError(f"--window {window}: the network's input is {height} x {width} pixels; choose less")
        occlusion = import_captum().Occlusion(self.scores)
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
        shap = import_captum().GradientShap(self.scores)
        samples, at_once = self.options.samples, max_forward_images(image_1CHW)
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
                n_steps=self.options.samples,
                internal_batch_size=max_forward_images(image_1CHW),
            )
        )
        return attribution_1CHW

    def _gradcam(self, image_1CHW: Tensor, target: int) -> Tensor:
        layer = self.scores.model.get_submodule(find_map_layer(self.scores.model, image_1CHW))
        gradcam = import_captum().LayerGradCam(self.scores, layer)
        map_11hw = gradcam.attribute(image_1CHW, target=target, relu_attributions=True)
        return F.interpolate(map_11hw, image_1CHW.shape[2:], mode="bilinear", align_corners=False)


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
