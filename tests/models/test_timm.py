"""timm's networks against timm's own way of giving them another number of classes."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from launcher.errors import UserError
from launcher.models.frozen.freeze import freeze, frozen_sha256, set_training
from launcher.models.zoo import Network, build_model, check_backbone
from launcher.recipe.backbone import Backbone, Head

timm = pytest.importorskip("timm")

SOME = [
    *("resnet18", "vit_tiny_patch16_224", "efficientnet_lite0", "convnext_atto", "dla34", "dpn48b", "mambaout_femto"),
    *("levit_128s", "repvit_m1", "crossvit_9_240", "volo_d1_224", "resnetv2_18", "vgg11", "nasnetalarge"),
]
"""Plain linear layers, 1 x 1 convolutions, heads within heads, and networks that average several."""


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def build_meta(name: str, num_outputs: int, **options: Any) -> Network:
    with torch.device("meta"):
        return build_model(Backbone(name=f"timm/{name}", **options), num_outputs)


def differs(name: str) -> str:
    """Difference between `name` with a new head and timm's network for 7 classes, or nothing."""
    with torch.device("meta"):
        reference = timm.create_model(name, num_classes=7)
    network = build_meta(name, 7)
    place = reference.pretrained_cfg["classifier"]
    if set(network.head_names) != {place} if isinstance(place, str) else set(network.head_names) != set(place):
        return f"head at {network.head_names}, not {place}"
    return "" if shapes(network.model) == shapes(reference) else "other tensors"


@pytest.mark.parametrize("name", SOME)
def test_the_head_is_where_timm_puts_it(name: str) -> None:
    assert differs(name) == ""


def test_the_head_of_every_family_is_where_timm_puts_it() -> None:
    models = [timm.list_models(module=module) for module in timm.list_modules()]
    names = [min(family, key=lambda name: (len(name), name)) for family in models if family]
    assert len(names) > 90
    assert {name: wrong for name in names if (wrong := differs(name))} == {}


@pytest.mark.parametrize("name", ["resnet18", "levit_128s", "dla34"])
@pytest.mark.parametrize("head", [Head(), Head(hidden=(8,), dropout=0.5)])
def test_heads_have_one_output_and_hidden_layers(name: str, head: Head) -> None:
    network = build_meta(name, 1, head=head)
    assert network.model.eval()(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1)


def test_all_heads_of_a_network_with_several_train() -> None:
    backbone = Backbone(name="timm/levit_128s", freeze="backbone")
    torch.manual_seed(0)
    network = build_model(backbone, 3)
    freeze(network, backbone.stages[0].freeze)
    set_training(network.model)
    before, sha256 = network.model.state_dict()["head_dist.linear.weight"].clone(), frozen_sha256(network.model)
    trainable = {name: parameter for name, parameter in network.model.named_parameters() if parameter.requires_grad}
    assert set(trainable) == {f"{head}.linear.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")}
    optimizer = torch.optim.SGD(trainable.values(), lr=0.5)
    network.model(torch.rand(2, 3, 224, 224)).square().sum().backward()
    optimizer.step()
    assert frozen_sha256(network.model) == sha256
    assert not torch.equal(network.model.state_dict()["head_dist.linear.weight"], before)


def test_a_wrong_name_gets_the_nearest() -> None:
    def message(name: str, weights: str = "none") -> str:
        (problem,) = check_backbone(Backbone(name=name, weights=weights))
        return f"{problem.path}: {problem.message}"

    assert check_backbone(Backbone(name="timm/resnet18", weights="DEFAULT")) == []
    assert check_backbone(Backbone(name="timm/resnet18.a1_in1k", weights="DEFAULT")) == []
    assert message("timm/resnet81") == "backbone.name: no such model 'timm/resnet81'; did you mean 'timm/resnet18'?"
    assert message("efficientnet_lite0").endswith(
        "no such model 'efficientnet_lite0'; did you mean 'timm/efficientnet_lite0'?"
    )
    assert message("timm/resnet18", "IMAGENET1K_V1").startswith(
        "backbone.weights: must be DEFAULT, none or a file, not "
    )
    bare = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    assert message(f"timm/{bare}", "DEFAULT").startswith(f"backbone.weights: timm/{bare} has no pretrained weights")


def test_without_timm_the_message_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    (problem,) = check_backbone(Backbone(name="timm/resnet18"))
    assert (problem.path, problem.message) == (
        "backbone.name",
        "timm is not installed; pip install 'launcher[timm]'",
    )
    with pytest.raises(UserError, match="pip install"):
        build_model(Backbone(name="timm/resnet18"), 3)
    (problem,) = check_backbone(Backbone(name="resnet5O"))
    assert "did you mean 'resnet50'?" in problem.message


HUB = "timm.models._builder.load_state_dict_from_hf"


@pytest.mark.parametrize("failure", [FileNotFoundError("no connection\nmore"), RuntimeError("damaged")])
def test_weights_that_cannot_be_loaded_are_a_user_error(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(HUB, fail)
    with pytest.raises(UserError, match=r"^backbone.weights: timm/resnet18 DEFAULT .*backbone.weights=none$") as error:
        build_model(Backbone(name="timm/resnet18", weights="DEFAULT"), 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("head", "num_outputs"), [(Head(), 3), ("keep", 1000)])
def test_pretrained_weights_are_timms(monkeypatch: pytest.MonkeyPatch, head: Any, num_outputs: int) -> None:
    saved: dict[str, Tensor] = timm.create_model("resnet18").state_dict()
    monkeypatch.setattr(HUB, lambda *_, **__: dict(saved))
    network = build_model(Backbone(name="timm/resnet18", weights="DEFAULT", head=head), num_outputs)
    loaded = network.model.state_dict()
    other = {name for name in saved if not torch.equal(loaded[name], saved[name])}
    assert other == (set() if head == "keep" else {"fc.weight", "fc.bias"})


def test_keep_has_the_outputs_of_its_weights() -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    assert build_meta(name, 21843, head="keep").head_name == "head"
    with pytest.raises(UserError, match="keep has 21843 outputs, data and loss need 3"):
        build_meta(name, 3, head="keep")


def test_keep_needs_a_classifier() -> None:
    with pytest.raises(UserError, match="has no classifier to keep"):
        build_meta("vit_small_patch14_dinov2.lvd142m", 3, head="keep")
    assert build_meta("vit_small_patch14_dinov2.lvd142m", 3).head_name == "head"
