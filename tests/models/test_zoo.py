from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from launcher.errors import UserError
from launcher.models.avatar_cnn import AvatarCnn
from launcher.models.lenet import LeNet
from launcher.models.zoo import IMAGENET_CLASSES, Network, build_model, check_backbone, model_names
from launcher.recipe.backbone import Backbone, Head

NAMES = torchvision.models.list_models(module=torchvision.models)
FAMILIES = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vit_b_32",
    "wide_resnet50_2",
]
SIDES = {"inception_v3": 299}
LAST_AUXILIARY = {"googlenet": ("aux1.fc2", "aux2.fc2"), "inception_v3": ("AuxLogits.fc",)}
KINDS = ("weight", "bias")


def family(name: str) -> str:
    return name.split("_")[0].rstrip("0123456789")


class NoMemory(TorchFunctionMode):
    """Weights without memory: the largest network has 645 million. RegNet cannot be built in `torch.device("meta")`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        where = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **where})


def build_meta(name: str, num_outputs: int, head: Head | None = None) -> Network:
    with NoMemory():
        return build_model(Backbone(name=name, head=head or Head()), num_outputs)


def output_shape(network: Network, side: int) -> tuple[int, ...]:
    network.model.eval().to("meta")
    return tuple(network.model(torch.empty(2, 3, side, side, device="meta")).shape)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def last_wide_layer(model: nn.Module) -> str:
    """The last layer with ImageNet's 1,000 rows."""
    return [
        name.removesuffix(".weight")
        for name, tensor in model.state_dict().items()
        if name.endswith(".weight") and tensor.ndim > 1 and tensor.shape[0] == IMAGENET_CLASSES
    ][-1]


def test_every_classification_model_of_torchvision_can_be_named() -> None:
    assert model_names() == ["avatar_cnn", "lenet", *NAMES]
    assert len(NAMES) >= 80


@pytest.mark.parametrize("name", NAMES)
def test_every_model_gets_its_head_where_the_1000_classes_were(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before: list[str] = []

    def recording(*arguments: Any, **options: Any) -> nn.Module:
        model: nn.Module = get_model(*arguments, **options)
        before.append(last_wide_layer(model))
        return model

    get_model = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", recording)
    network = build_meta(name, 7)
    assert [network.head_name] == before
    assert network.twin_names == ()
    assert [weight.shape[0] for weight in network.head.parameters()] == [7, 7]
    options = {"init_weights": False} if name in LAST_AUXILIARY else {}
    with NoMemory():
        reference: nn.Module = get_model(name, num_classes=7, **options)
    # A new layer has a bias, MaxVit's own has none.
    assert shapes(network.model) == {**shapes(reference), f"{network.head_name}.bias": (7,)}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_every_family_has_an_output_for_each_class(name: str) -> None:
    assert output_shape(build_meta(name, 7), SIDES.get(name, 224)) == (2, 7)


def test_families_are_all_of_torchvisions() -> None:
    assert {family(name) for name in FAMILIES} == {family(name) for name in NAMES}


@pytest.mark.parametrize("name", ["lenet", "resnet18", "vgg11", "squeezenet1_1", "vit_b_32"])
@pytest.mark.parametrize("head", [Head(), Head(hidden=(64, 16), dropout=0.5, activation="gelu"), Head(dropout=0.2)])
@pytest.mark.parametrize("num_outputs", [1, 257])
def test_every_form_of_head_has_its_outputs(name: str, head: Head, num_outputs: int) -> None:
    network = build_meta(name, num_outputs, head)
    assert output_shape(network, 32 if name == "lenet" else 224) == (2, num_outputs)


@pytest.mark.parametrize(
    ("name", "side", "num_outputs"), [("resnet18", 64, 1000), ("lenet", 32, 10), ("avatar_cnn", 64, 1)]
)
def test_keep_is_the_original_network(name: str, side: int, num_outputs: int) -> None:
    torch.manual_seed(0)
    own: dict[str, type[LeNet] | type[AvatarCnn]] = {"lenet": LeNet, "avatar_cnn": AvatarCnn}
    original = own[name](num_outputs) if name in own else torchvision.models.get_model(name)
    torch.manual_seed(0)
    network = build_model(Backbone(name=name, head="keep"), num_outputs)
    images_BCHW = torch.rand(2, 3, side, side)
    assert torch.equal(network.model.eval()(images_BCHW), original.eval()(images_BCHW))
    assert network.head is list(network.model.modules())[-1]


@pytest.mark.parametrize(("name", "num_kept"), [("resnet18", 1000), ("lenet", 10), ("avatar_cnn", 1)])
def test_keep_needs_data_of_as_many_classes(name: str, num_kept: int) -> None:
    with pytest.raises(UserError, match=f"^backbone.head: keep has {num_kept} outputs, data and loss need 3; "):
        build_model(Backbone(name=name, head="keep"), 3)


def kinds(module: nn.Module) -> list[str]:
    return [type(child).__name__ for child in module.children()]


def test_a_head_has_its_layers() -> None:
    assert isinstance(build_meta("resnet18", 5).head, nn.Linear)
    assert kinds(build_meta("resnet18", 5, Head(dropout=0.2)).head) == ["Dropout", "Linear"]
    assert kinds(build_meta("resnet18", 5, Head(hidden=(8,), activation="tanh")).head) == ["Linear", "Tanh", "Linear"]
    deep = build_meta("resnet18", 5, Head(hidden=(64, 16), dropout=0.5)).head
    assert kinds(deep) == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [tuple(weight.shape) for weight in deep.parameters() if weight.ndim > 1] == [(64, 512), (16, 64), (5, 16)]


def test_squeezenet_keeps_a_convolution_as_head() -> None:
    assert isinstance(build_meta("squeezenet1_0", 5).head, nn.Conv2d)
    assert kinds(build_meta("squeezenet1_0", 5, Head(hidden=(8,))).head) == ["Conv2d", "ReLU", "Conv2d"]


def test_the_seed_decides_the_weights() -> None:
    def first_weight(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(build_model(Backbone(name="lenet"), 3).model.parameters())

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


@pytest.mark.parametrize(
    ("backbone", "path", "message"),
    [
        (Backbone(name="resnet5O"), "backbone.name", "no such model 'resnet5O'; did you mean 'resnet50'?"),
        (Backbone(name="Lenet"), "backbone.name", "did you mean 'lenet'?"),
        (Backbone(name="resnet18", weights="no/such.pt"), "backbone.weights", "no such file: no/such.pt"),
        (Backbone(name="lenet", weights="mine.safetensors"), "backbone.weights", "no such file: mine.safetensors"),
        (
            Backbone(name="resnet50", weights="IMAGENET1K_V3"),
            "backbone.weights",
            "resnet50 has no weights 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V",
        ),
        (Backbone(name="resnet18", weights="x"), "backbone.weights", "valid: DEFAULT, IMAGENET1K_V1, none"),
    ],
)
def test_an_unknown_name_gets_the_nearest(backbone: Backbone, path: str, message: str) -> None:
    (problem,) = check_backbone(backbone)
    assert problem.path == path
    assert message in problem.message


@pytest.mark.parametrize("name", NAMES)
def test_every_weights_entry_is_valid(name: str) -> None:
    for entry in ("none", "DEFAULT", *torchvision.models.get_model_weights(name).__members__):
        assert check_backbone(Backbone(name=name, weights=entry)) == []


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An empty cache of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("Name or service not known"),
        urllib.error.HTTPError("https://x", 403, "Forbidden", None, None),  # type: ignore[arg-type]
        TimeoutError("timed out"),
        RuntimeError('invalid hash value (expected "f37072fd", got "0bad")'),
    ],
)
def test_a_failed_download_is_a_user_error_with_advice(downloads: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    downloads.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(
        UserError, match=r"^backbone.weights: resnet18 DEFAULT cannot .*backbone.weights=none$"
    ) as error:
        build_model(Backbone(name="resnet18", weights="DEFAULT"), 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3", "squeezenet1_1"])
def test_pretrained_weights_are_loaded_outside_of_the_head(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    saved = torchvision.models.get_model(name, **options).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: saved)
    network = build_model(Backbone(name=name, weights="DEFAULT"), 3)
    loaded = network.model.state_dict()
    same = {key for key in loaded if torch.equal(loaded[key], saved[key])}
    new = {f"{layer}.{kind}" for layer in (network.head_name, *LAST_AUXILIARY.get(name, ())) for kind in KINDS}
    assert set(loaded) == set(saved)
    assert set(loaded) - same == new
