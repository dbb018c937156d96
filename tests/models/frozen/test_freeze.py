from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from launcher.errors import UserError
from launcher.models.frozen.freeze import (
    check_freeze,
    find_blocks,
    freeze,
    frozen_names,
    frozen_sha256,
    frozen_tensors,
    set_training,
    training_modes,
)
from launcher.models.zoo import Network, build_model, build_shapes
from launcher.recipe.backbone import Backbone, ExceptLast, Head, Parts

FROZEN = Backbone(name="resnet18", freeze="backbone", head=Head(dropout=0.5))

BLOCKS = {
    "resnet50": "conv1+bn1 layer1 layer2 layer3 layer4",
    "densenet121": "conv0+norm0 denseblock1 transition1 denseblock2 transition2 denseblock3 transition3 "
    "denseblock4+norm5",
    "vgg11_bn": "0+1 4+5 8+9 11+12 15+16 18+19 22+23 25+26 classifier.0 classifier.3",
    "vit_b_32": f"conv_proj {' '.join(f'encoder_layer_{i}' for i in range(11))} encoder_layer_11+encoder.ln",
    "swin_t": "0 1 2 3 4 5 6 7+norm",
    "convnext_tiny": "0 1 2 3 4 5 6 7+classifier.0",
    "efficientnet_b0": "0 1 2 3 4 5 6 7 8",
    "mobilenet_v3_small": "0 1 2 3 4 5 6 7 8 9 10 11 12 classifier.0",
    "maxvit_t": "stem.0 stem.1 blocks.0 blocks.1 blocks.2 blocks.3+classifier.2 classifier.3",
    "googlenet": "conv1 conv2 conv3 inception3a inception3b inception4a inception4b inception4c inception4d "
    "inception4e inception5a inception5b",
    "squeezenet1_1": "0 3 4 6 7 9 10 11 12",
    "lenet": "conv1 conv2 fc1 fc2",
    "avatar_cnn": "conv1 conv2 fc1",
    "timm/vit_tiny_patch16_224": f"patch_embed.proj {' '.join(f'blocks.{i}' for i in range(11))} blocks.11+norm",
    "timm/efficientnet_lite0": f"conv_stem+bn1 {' '.join(f'blocks.{i}' for i in range(7))} conv_head+bn2",
    "timm/levit_128s": "stem.conv1 stem.conv2 stem.conv3 stem.conv4 stages.0 stages.1 stages.2+head.bn+head_dist.bn",
}
"""Blocks of networks; without the prefixes `features.` and `encoder.layers.`."""

SHOWN = "conv1 + bn1, layer1, layer2, layer3, layer4"
"""Blocks of a ResNet in messages."""


def build_meta(name: str, parts: Parts = "backbone", head: Head | None = None) -> Network:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    network = build_shapes(Backbone(name=name, freeze=parts, head=head or Head()))
    freeze(network, parts)
    return network


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_follow_the_layers_of_each_family(name: str) -> None:
    blocks = ["+".join(block) for block in find_blocks(build_meta(name))]
    shown = " ".join(block.replace("features.", "").replace("encoder.layers.", "") for block in blocks)
    assert shown == BLOCKS[name]


OUTSIDE = {"vit": {"class_token", "encoder.pos_embedding"}}
"""Parameters outside of all blocks."""


def count_in(name: str, block: tuple[str, ...]) -> int:
    return sum(name.startswith(f"{module}.") for module in block)


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_parameter_of_a_backbone_is_in_one_block(name: str) -> None:
    network = build_meta(name)
    blocks = find_blocks(network)
    assert len(blocks) >= 3
    names = [each for each, _ in network.model.named_parameters() if not count_in(each, network.head_names)]
    numbers = {each: [i for i, block in enumerate(blocks) if count_in(each, block)] for each in names}
    assert {each for each in names if len(numbers[each]) != 1} == OUTSIDE.get(name.partition("_")[0], set())
    order = [number for found in numbers.values() for number in found]
    assert sorted(set(order)) == list(range(len(blocks)))
    assert order == sorted(order)
    assert not any(count_in(f"{module}.", network.head_names) for block in blocks for module in block)


@pytest.mark.parametrize(
    ("name", "parts", "trained"),
    [
        ("resnet18", "backbone", {"fc"}),
        ("resnet18", ExceptLast(except_last=1), {"layer4", "fc"}),
        ("resnet18", ExceptLast(except_last=3), {"layer2", "layer3", "layer4", "fc"}),
        ("resnet18", ("conv1", "bn1", "layer[12]"), {"layer3", "layer4", "fc"}),
        ("resnet18", ("fc",), {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        (
            "densenet121",
            ExceptLast(except_last=2),
            {"features.transition3", "features.denseblock4", "features.norm5", "classifier"},
        ),
        ("vit_b_32", ExceptLast(except_last=1), {"encoder.layers.encoder_layer_11", "encoder.ln", "heads"}),
        ("convnext_tiny", ExceptLast(except_last=1), {"features.7", "classifier"}),
        ("timm/levit_128s", "backbone", {"head.linear", "head_dist.linear"}),
    ],
)
def test_parameters_outside_of_the_frozen_part_train(name: str, parts: Parts, trained: set[str]) -> None:
    model = build_meta(name, parts).model
    for each, parameter in model.named_parameters():
        assert parameter.requires_grad == any(each.startswith(f"{module}.") for module in trained), each


def test_patterns_match_modules_and_single_tensors() -> None:
    network = build_meta("resnet18", "none")
    assert frozen_names(network, "none") == frozenset()
    assert frozen_names(network, ("layer1.*.bn1",)) == {
        f"layer1.{i}.bn1.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    assert frozen_names(network, ("conv1.weight", "fc.bias")) == {"conv1.weight", "fc.bias"}
    assert frozen_names(network, ("layer*", "conv1", "bn1")) == frozen_names(network, "backbone")


@pytest.mark.parametrize(
    ("name", "parts", "line"),
    [
        (
            "lenet",
            ExceptLast(except_last=5),
            "the backbone has 4 blocks, not 5 (conv1, conv2, fc1, fc2); to train all write none",
        ),
        (
            "resnet18",
            ExceptLast(except_last=6),
            f"the backbone has 5 blocks, not 6 ({SHOWN}); to train all write none",
        ),
        ("resnet18", ("layer1", "layer5"), "'layer5' is no part of the network; did you mean 'layer4'?"),
        ("resnet18", ("layer4.0.conv3",), "'layer4.0.conv3' is no part of the network; did you mean 'layer4.0.conv2'?"),
        ("resnet18", ("layer",), "'layer' is no part of the network; did you mean 'layer4'?"),
        ("resnet18", ("*",), "leaves nothing to train"),
        ("lenet", ExceptLast(except_last=4), "freezes nothing: write none"),
        ("lenet", ("conv*", "fc?"), "leaves nothing to train"),
    ],
)
def test_wrong_parts_are_a_user_error(name: str, parts: Parts, line: str) -> None:
    network = build_shapes(Backbone(name=name))
    with pytest.raises(UserError) as error:
        frozen_names(network, parts)
    assert str(error.value) == line


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    network = build_model(FROZEN, 3)
    freeze(network, "backbone")
    return network


def train_steps(network: Network, begin: Callable[[], object], side: int = 32) -> None:
    """Three steps of everything that trains, each after `begin` has set the modes."""
    trainable = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        begin()
        network.model(torch.randn(4, 3, side, side)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        network.model.eval()  # as after an evaluation


@pytest.mark.parametrize(
    ("parts", "trained"), [("backbone", ("fc.",)), (ExceptLast(except_last=1), ("fc.", "layer4."))], ids=str
)
def test_resnet50_keeps_every_frozen_tensor_and_the_hash_sees_a_batchnorm_in_training_mode(
    parts: Parts, trained: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    network = build_model(Backbone(name="resnet50", freeze=parts), 3)
    freeze(network, parts)
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    sha256 = frozen_sha256(network.model)
    train_steps(network, lambda: set_training(network.model), side=64)
    same = {name for name, tensor in network.model.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == {name for name in before if not name.startswith(trained)}
    assert "layer3.5.bn3.running_var" in same
    assert frozen_sha256(network.model) == sha256
    train_steps(network, network.model.train, side=64)
    assert frozen_sha256(network.model) != sha256


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var", "bn1.num_batches_tracked", "layer4.1.bn2.bias"])
def test_the_hash_sees_every_tensor(network: Network, name: str) -> None:
    sha256 = frozen_sha256(network.model)
    network.model.state_dict()[name].view(-1)[-1].add_(1)
    assert frozen_sha256(network.model) != sha256


def test_the_hash_ignores_what_trains(network: Network) -> None:
    freeze(network, ("conv1", "layer1"))
    sha256 = frozen_sha256(network.model)
    tensors = network.model.state_dict()
    for name in ("bn1.running_mean", "layer2.0.bn1.running_var", "fc.1.bias"):
        tensors[name].add_(1)
    assert frozen_sha256(network.model) == sha256
    tensors["layer1.0.bn1.running_mean"].add_(1)
    assert frozen_sha256(network.model) != sha256


def test_the_hash_does_not_depend_on_modes_or_memory_format(network: Network) -> None:
    sha256 = frozen_sha256(network.model)
    network.model.to(memory_format=torch.channels_last)
    assert frozen_sha256(network.model) == sha256
    assert frozen_sha256(network.model.eval()) == sha256


def modes(model: nn.Module, kind: type[nn.Module]) -> list[bool]:
    return [module.training for module in model.modules() if isinstance(module, kind)]


def test_the_heads_dropout_trains_and_the_backbones_batchnorm_does_not(network: Network) -> None:
    for begin in (network.model.train, network.model.eval):
        begin()
        set_training(network.model)
        assert modes(network.model, nn.Dropout) == [True]
        assert modes(network.model, nn.BatchNorm2d) == [False] * 20


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("backbone", [False, False, True]),
        (ExceptLast(except_last=1), [False, True, True]),  # classifier.3 trains, and what comes after it
        (ExceptLast(except_last=2), [True, True, True]),
        ("none", [True, True, True]),
    ],
)
def test_dropout_before_the_first_layer_that_trains_is_frozen(parts: Parts, expected: list[bool]) -> None:
    model = build_meta("vgg11", parts, Head(dropout=0.5)).model
    set_training(model)
    assert modes(model, nn.Dropout) == expected


def test_batchnorm_of_a_block_that_trains_is_in_training_mode() -> None:
    model = build_meta("resnet18", ExceptLast(except_last=1)).model
    found = {name for name, mode in training_modes(model).items() if mode and name.rpartition(".")[2].startswith("bn")}
    assert found == {f"layer4.{i}.bn{j}" for i in (0, 1) for j in (1, 2)}


def test_stochastic_depth_is_random_in_blocks_that_train_only() -> None:
    model = build_meta("convnext_tiny", ExceptLast(except_last=1)).model
    set_training(model)
    depths = {
        name: module.training
        for name, module in model.named_modules()
        if isinstance(module, torchvision.ops.StochasticDepth)
    }
    assert {name.split(".")[1] for name, mode in depths.items() if mode} == {"7"}
    assert {name.split(".")[1] for name, mode in depths.items() if not mode} == {"1", "3", "5"}


def test_without_freezing_everything_trains() -> None:
    network = build_model(Backbone(name="resnet18"), 3)
    freeze(network, "none")
    assert all(parameter.requires_grad for parameter in network.model.parameters())
    network.model.eval()
    set_training(network.model)
    assert all(module.training for module in network.model.modules())
    assert frozen_sha256(network.model) is None


def test_unfreezing_gives_gradients_back(network: Network) -> None:
    freeze(network, ExceptLast(except_last=1))
    freeze(network, "none")
    assert all(parameter.requires_grad for parameter in network.model.parameters())


class Shared(nn.Module):
    """A layer with two names in one module, and one in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.same_norm = self.norm
        self.head = nn.Sequential(nn.Linear(4, 4), self.norm)

    def forward(self, values_BC: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.same_norm(self.norm(self.first(values_BC))))
        return outputs


def test_modules_with_two_names_have_one_mode() -> None:
    model = Shared()
    freeze(Network(model, "head"), ("first.weight", "first.bias"))
    set_training(model)
    assert model.norm.training
    assert frozen_tensors(model) == ["first.weight", "first.bias"]
    sha256 = frozen_sha256(model)
    model(torch.rand(4, 4))
    assert frozen_sha256(model) == sha256


def stages(*freezes: object) -> object:
    return {"schedule": tuple({"at": at, "freeze": freeze} for at, freeze in enumerate(freezes))}


def problems_of(name: str, freeze: object) -> list[str]:
    backbone = Backbone.model_validate({"name": name, "weights": "DEFAULT", "head": "keep", "freeze": freeze})
    return [f"{problem.path}: {problem.message}" for problem in check_freeze(backbone)]


@pytest.mark.parametrize(
    ("freeze", "lines"),
    [
        ("none", []),
        ("backbone", []),
        ({"except_last": 2}, []),
        (("layer1",), []),
        (stages("backbone", {"except_last": 1}, "none"), []),
        (
            {"except_last": 9},
            [f"backbone.freeze: the backbone has 5 blocks, not 9 ({SHOWN}); to train all write none"],
        ),
        (("layr1",), ["backbone.freeze: 'layr1' is no part of the network; did you mean 'layer1'?"]),
        (("*",), ["backbone.freeze: leaves nothing to train"]),
        (
            stages("backbone", ("layer9",), ("*",)),
            [
                "backbone.freeze.schedule.1.freeze: 'layer9' is no part of the network; did you mean 'layer4'?",
                "backbone.freeze.schedule.2.freeze: leaves nothing to train",
            ],
        ),
        (
            stages("none", "backbone"),
            ["backbone.freeze.schedule.1.freeze: must freeze less than the stage before"],
        ),
        (
            stages("backbone", ("conv1", "bn1", "layer?")),
            ["backbone.freeze.schedule.1.freeze: must freeze less than the stage before"],
        ),
        (
            stages(("layer1",), ("conv1",)),
            ["backbone.freeze.schedule.1.freeze: must freeze less than the stage before"],
        ),
    ],
)
def test_freezing_is_checked_against_the_network_without_its_weights(freeze: object, lines: list[str]) -> None:
    assert problems_of("resnet18", freeze) == lines


def test_a_problem_depends_on_the_networks_name_too() -> None:
    (problem,) = check_freeze(Backbone(name="lenet", freeze=("conv3",)))
    assert problem.paths == ("backbone.freeze", "backbone.name")
