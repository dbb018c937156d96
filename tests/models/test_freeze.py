from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from launcher.models.freeze import freeze, frozen_sha256, set_training
from launcher.models.zoo import Network, build_model
from launcher.recipe.backbone import Backbone, Head

FROZEN = Backbone(name="resnet18", freeze="backbone", head=Head(dropout=0.5))
FREE = Backbone(name="resnet18")


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    network = build_model(FROZEN, 3)
    freeze(network, FROZEN)
    return network


def train_steps(network: Network, begin: Callable[[], object]) -> None:
    """Three steps on everything that has a gradient, after `begin` has set the modes."""
    begin()
    trainable = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        network.model(torch.randn(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def tensors_outside(network: Network) -> dict[str, Tensor]:
    state = network.model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if not name.startswith("fc.")}


def test_what_is_frozen_stays_through_training(network: Network) -> None:
    before, sha256 = tensors_outside(network), frozen_sha256(network, FROZEN)
    head = network.head.state_dict()["1.weight"].clone()
    train_steps(network, lambda: set_training(network, FROZEN))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_outside(network).items())
    assert any("running_mean" in name for name in before)
    assert frozen_sha256(network, FROZEN) == sha256
    assert not torch.equal(network.head.state_dict()["1.weight"], head)


def test_the_hash_sees_batchnorm_that_counted_on(network: Network) -> None:
    sha256 = frozen_sha256(network, FROZEN)
    train_steps(network, network.model.train)
    assert frozen_sha256(network, FROZEN) != sha256


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var", "bn1.num_batches_tracked", "layer4.1.bn2.bias"])
def test_the_hash_sees_every_tensor(network: Network, name: str) -> None:
    sha256 = frozen_sha256(network, FROZEN)
    network.model.state_dict()[name].view(-1)[-1].add_(1)
    assert frozen_sha256(network, FROZEN) != sha256


def test_the_hash_is_of_values_not_of_memory_layout(network: Network) -> None:
    sha256 = frozen_sha256(network, FROZEN)
    network.model.to(memory_format=torch.channels_last)
    assert frozen_sha256(network, FROZEN) == sha256


def test_only_the_head_has_gradients(network: Network) -> None:
    trainable = {name for name, parameter in network.model.named_parameters() if parameter.requires_grad}
    assert trainable == {"fc.1.weight", "fc.1.bias"}


def modes(network: Network, kind: type[nn.Module]) -> list[bool]:
    return [module.training for module in network.model.modules() if isinstance(module, kind)]


def test_the_heads_dropout_is_at_work_and_the_backbones_batchnorm_is_not(network: Network) -> None:
    set_training(network, FROZEN)
    assert modes(network, nn.Dropout) == [True]
    assert modes(network, nn.BatchNorm2d) == [False] * 20
    network.model.eval()
    set_training(network, FROZEN)
    assert modes(network, nn.Dropout) == [True]


def test_the_backbones_own_dropout_is_frozen_too() -> None:
    backbone = Backbone(name="vgg11", freeze="backbone", head=Head(dropout=0.5))
    with torch.device("meta"):
        network = build_model(backbone, 3)
    set_training(network, backbone)
    assert modes(network, nn.Dropout) == [False, False, True]


def test_without_freezing_everything_trains() -> None:
    network = build_model(FREE, 3)
    freeze(network, FREE)
    assert all(parameter.requires_grad for parameter in network.model.parameters())
    network.model.eval()
    set_training(network, FREE)
    assert all(module.training for module in network.model.modules())
    assert frozen_sha256(network, FREE) is None
