"""Each method against a plain computation of the same."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from launcher.cli.main import run
from launcher.commands.model.explain.methods import (
    MAX_FORWARD,
    Explainer,
    MethodOptions,
    find_map_layer,
    max_forward_images,
)
from launcher.commands.model.options import Method
from launcher.errors import UserError
from launcher.models.avatar_cnn import AvatarCnn
from launcher.models.lenet import LeNet

EXTREMES_NC11 = torch.tensor([[-1.0] * 3, [1.0] * 3])[:, :, None, None]


def image(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def build(model: nn.Module, method: Method, **method_options: int) -> Explainer:
    return Explainer(model, MethodOptions(method, **method_options), EXTREMES_NC11)


def lenet(num_outputs: int = 4) -> LeNet:
    torch.manual_seed(0)
    return LeNet(num_outputs).eval()


@torch.no_grad()
def occlude_plainly(model: nn.Module, image_1CHW: Tensor, target: int, window: int, stride: int) -> Tensor:
    """For each pixel the mean drop of the score over the windows that cover it, one forward pass per window."""
    side = image_1CHW.shape[-1]
    whole = model(image_1CHW)[0, target]
    drops_HW, counts_HW = torch.zeros(side, side), torch.zeros(side, side)
    starts = range(0, side - window + stride, stride)
    for top in starts:
        for left in starts:
            covered_1CHW = image_1CHW.clone()
            covered_1CHW[:, :, top : top + window, left : left + window] = 0
            drop = whole - model(covered_1CHW)[0, target]
            drops_HW[top : top + window, left : left + window] += drop
            counts_HW[top : top + window, left : left + window] += 1
    return drops_HW / counts_HW


@pytest.mark.parametrize(("window", "stride"), [(15, 8), (10, 3), (4, 4)])
def test_occlusion_equals_a_loop_over_windows(window: int, stride: int) -> None:
    model, image_1CHW = lenet(), image(32)
    heat_HW = build(model, "occlusion", window=window, stride=stride)(image_1CHW, 2, 0)
    torch.testing.assert_close(heat_HW, occlude_plainly(model, image_1CHW, 2, window, stride), rtol=1e-4, atol=1e-6)


def test_window_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="--window 33: the network's input is 32 x 32 pixels; choose less"):
        build(lenet(), "occlusion", window=33)(image(32), 0, 0)


def test_integrated_gradients_add_up_to_the_score() -> None:
    model, image_1CHW = lenet(), image(32)
    heat_HW = build(model, "integrated-gradients", samples=300)(image_1CHW, 1, 0)
    with torch.no_grad():
        wanted = (model(image_1CHW) - model(torch.zeros_like(image_1CHW)))[0, 1]
    assert abs(wanted) > 0.01
    torch.testing.assert_close(heat_HW.sum(), wanted, rtol=0.01, atol=1e-4)


def test_gradient_shap_of_a_linear_network_is_weights_times_distance() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3 * 8 * 8, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    image_1CHW = image(8)
    heat_HW = build(model, "gradient-shap", samples=3000)(image_1CHW, 1, 5)
    weights_CHW = linear.weight[1].view(3, 8, 8)
    wanted_HW = (weights_CHW * image_1CHW[0]).sum(0)  # black and white are at -1 and 1: on average at 0
    spread_HW = weights_CHW.sum(0).abs() + 0.02
    assert ((heat_HW - wanted_HW).abs() < 0.1 * spread_HW).all()
    assert MAX_FORWARD < 3000, "samples come in several passes"


def read_numpy() -> list[int]:
    return np.random.get_state(legacy=False)["state"]["key"].tolist()  # type: ignore[no-any-return]


def test_gradient_shap_is_seeded_and_restores_global_generators() -> None:
    explainer, image_1CHW = build(lenet(), "gradient-shap", samples=7), image(32)
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), read_numpy()
    first = explainer(image_1CHW, 0, 11)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert read_numpy() == before[1]
    assert torch.equal(first, explainer(image_1CHW, 0, 11))
    assert not torch.equal(first, explainer(image_1CHW, 0, 12))


def test_gradcam_equals_hooks_on_the_layer() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).eval()
    image_1CHW, seen = image(64), {}

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        seen["map"] = output

    hook = model.layer4.register_forward_hook(keep)
    model(image_1CHW)[0, 3].backward()
    hook.remove()
    map_1Ahw = seen["map"]
    assert map_1Ahw.grad is not None
    weights_1A11 = map_1Ahw.grad.mean((2, 3), keepdim=True)
    cam_11hw = (weights_1A11 * map_1Ahw).sum(1, keepdim=True).relu()
    wanted_HW = F.interpolate(cam_11hw, (64, 64), mode="bilinear", align_corners=False)[0, 0].detach()
    heat_HW = build(model, "gradcam")(image_1CHW, 3, 0)
    assert wanted_HW.max() > 0
    torch.testing.assert_close(heat_HW, wanted_HW, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "side", "layer"),
    [
        ("resnet18", 64, "layer4"),
        ("resnet18", 32, "layer3"),
        ("resnet50", 32, "layer3"),
        ("densenet121", 64, "features"),
        ("mobilenet_v3_small", 64, "features"),
        ("swin_t", 64, "permute"),
    ],
)
def test_find_map_layer_gives_the_last_map_before_pooling(name: str, side: int, layer: str) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    assert find_map_layer(model, image(side)) == layer
    assert build(model, "gradcam")(image(side), 0, 0).shape == (side, side)


def test_find_map_layer_skips_poolings_and_reused_modules() -> None:
    assert find_map_layer(lenet(), image(32)) == "conv2"
    assert find_map_layer(AvatarCnn(1).eval(), image(64)) == "conv2"


def test_find_map_layer_refuses_a_network_of_tokens() -> None:
    model = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=3).eval()
    with pytest.raises(UserError, match=r"gradcam: this network has no feature map.*choose occlusion"):
        find_map_layer(model, image(32))


@pytest.mark.parametrize("method", ["occlusion", "integrated-gradients", "gradient-shap"])
def test_single_logit_is_evidence_for_one_class_and_against_the_other(method: Method) -> None:
    explainer = build(lenet(1), method, samples=8)
    for_HW, against_HW = (explainer(image(32), label, 4) for label in (1, 0))
    assert for_HW.abs().max() > 0
    torch.testing.assert_close(for_HW, -against_HW)


def test_forward_passes_have_a_bounded_size() -> None:
    """Whatever the options, a forward pass has at most the images that `max_forward_images` allows."""
    model, sizes = lenet(), []
    model.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    for method in ("occlusion", "gradient-shap", "integrated-gradients"):
        build(model, method, window=2, stride=1, samples=700)(image(32), 0, 0)
    assert max(sizes) == MAX_FORWARD == max_forward_images(image(32))
    assert max_forward_images(image(224)) == 41
    assert max_forward_images(image(1600)) == 1


def test_missing_captum_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"captum is not installed; pip install 'launcher\[explain\]'"):
        build(lenet(), "occlusion")(image(32), 0, 0)


def test_help_states_the_default_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    defaults = MethodOptions("occlusion")
    for name in ("window", "stride", "samples"):
        assert f"Default: {getattr(defaults, name)}." in words.partition(f"--{name} ")[2].partition("--")[0]
