"""The two parts of a split network against the whole, for every family: outputs, and gradients in training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from launcher.data.features.store import frozen_part_sha256
from launcher.models.frozen.freeze import freeze
from launcher.models.frozen.split import SplitError, split_frozen
from launcher.models.zoo import Network, build_model
from launcher.recipe.backbone import Backbone
from tests.models.frozen.splits import LAST, build_random, compare, side_of

FAMILIES = [
    ("lenet", "relu_3", "relu_2"),
    ("avatar_cnn", "relu_2", "flatten"),
    ("alexnet", "classifier_5", "classifier_3"),
    ("densenet121", "flatten", "features_transition3_pool"),
    ("efficientnet_b0", "flatten", "features_7_0_block_3_1"),
    ("googlenet", "dropout", "cat_7"),
    ("inception_v3", "flatten", "cat_11"),
    ("mnasnet0_5", "mean", "layers_13_0_layers_7"),
    ("mobilenet_v2", "flatten", "features_17_conv_3"),
    ("mobilenet_v3_small", "classifier_2", "flatten"),
    ("regnet_x_400mf", "flatten", "trunk_output_block3_block3_6_activation"),
    ("resnet18", "flatten", "layer3_1_relu_1"),
    ("shufflenet_v2_x0_5", "mean", "view_31"),
    ("squeezenet1_1", "cat_7", "cat_6"),
    ("swin_t", "flatten", "features_6_reduction"),
    ("vgg11_bn", "classifier_5", "classifier_2"),
    ("timm/resnet18", "global_pool_flatten", "layer3_1_act2"),
    ("timm/efficientnet_lite0", "global_pool_flatten", "blocks_6_0_bn3"),
]
"""Name, boundary with the backbone frozen, and boundary with all but its last block frozen."""


@pytest.mark.parametrize(("name", "boundary", "boundary_of_last"), FAMILIES)
def test_the_parts_compute_the_whole(name: str, boundary: str, boundary_of_last: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    network, images_BCHW = build_random(name, side_of(name))
    found = [compare(network, name, parts, images_BCHW) for parts in ("backbone", LAST)]
    assert [each.boundary for each in found] == [(boundary,), (boundary_of_last,)]
    assert [each for each in found if not each.is_same] == []


class Branching(nn.Module):
    """Branches on a value of its input, which a symbol does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        values_BCHW = self.first(images_BCHW)
        if values_BCHW.sum() > 0:
            values_BCHW = -values_BCHW
        outputs: Tensor = self.head(values_BCHW.mean((2, 3)))
        return outputs


def test_a_network_that_cannot_be_traced_raises_why() -> None:
    model = Branching()
    freeze(Network(model, "head"), ("first.weight", "first.bias"))
    with pytest.raises(SplitError, match=r"^torch.fx cannot trace it: symbolically traced variables cannot be used as"):
        split_frozen(model, "x", [torch.rand(2, 3, 8, 8)])


@pytest.mark.parametrize("frozen", [("fc1",), ("conv2", "fc1")])
def test_a_first_layer_that_trains_leaves_nothing_to_split(frozen: tuple[str, ...]) -> None:
    network = build_model(Backbone(name="lenet"), 3)
    freeze(network, frozen)
    with pytest.raises(SplitError, match=r"^the first layers train$"):
        split_frozen(network.model, "lenet", [torch.rand(2, 3, 32, 32)])


def test_the_trainable_part_evaluates_an_average_with_its_own_weights() -> None:
    network, images_BCHW = build_random("resnet18", 64)
    freeze(network, LAST)
    split = split_frozen(network.model, "resnet18", [images_BCHW])
    average = copy.deepcopy(network.model)
    with torch.no_grad():
        for name, tensor in average.state_dict().items():
            if name.startswith(("layer4.", "fc.")) and tensor.is_floating_point():
                tensor.mul_(1.5)
        outputs = split.eval_trainable(average).eval()(*split.frozen(images_BCHW))
        torch.testing.assert_close(outputs, average.eval()(images_BCHW))
        assert not torch.allclose(outputs, network.model.eval()(images_BCHW))


class DropPath(nn.Module):
    """As in timm: the result of scaling the mask in place is not used."""

    def forward(self, values_BC: Tensor) -> Tensor:
        if not self.training:
            return values_BC
        mask_B1 = values_BC.new_empty((values_BC.shape[0], 1)).bernoulli_(0.5)
        mask_B1.div_(0.5)
        return values_BC * mask_B1


class ChangesInPlace(nn.Module):
    """A first layer, `change` of its values in place, and layers that use them by their old name."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.drop = DropPath()
        self.change = change

    def forward(self, images_BCHW: Tensor) -> Tensor:
        values_BC = self.first(images_BCHW.flatten(1))
        self.change(values_BC)
        values_BC = values_BC + self.drop(self.second(values_BC))
        return self.fc(values_BC)  # type: ignore[no-any-return]


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "nothing": lambda _: None,
    "method": lambda values_BC: values_BC.mul_(3.0),
    "two methods": lambda values_BC: values_BC.mul_(3.0).add_(1.0),
    "function": torch.relu_,
    "argument": lambda values_BC: nn.functional.relu(values_BC, inplace=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_in_place_reach_the_trainable_part(change: Callable[[Tensor], object]) -> None:
    network = Network(ChangesInPlace(change), "fc")
    torch.manual_seed(0)
    found = compare(network, "x", ("first",), torch.randn(2, 3, 2, 2))
    assert len(found.boundary) == 1
    assert found.is_same, found


class DoublesInTraining(nn.Module):
    """Changes a slice of a tensor, and so the tensor, which no graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.fc = nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        values_BC = self.norm(self.first(images_BCHW.flatten(1)))
        if self.norm.training:
            values_BC[:, 2:].mul_(2.0)
        return self.fc(values_BC)  # type: ignore[no-any-return]


def test_parts_that_differ_from_the_whole_in_training_only_are_refused() -> None:
    model = DoublesInTraining()
    freeze(Network(model, "fc"), ("first.weight", "first.bias"))
    before, seed = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(SplitError, match=r"^in training its two parts compute something else than the whole$"):
        split_frozen(model, "x", [torch.ones(2, 3, 2, 2) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)])
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), seed)


class WithConstant(nn.Module):
    """Makes a tensor, which tracing stores as a numbered constant of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return self.fc(self.conv(images_BCHW).mean((2, 3)) * scale)  # type: ignore[no-any-return]


def test_the_hash_of_a_frozen_part_is_the_same_for_every_split() -> None:
    model = WithConstant()
    model.conv.requires_grad_(False)
    hashes = {frozen_part_sha256(split_frozen(model, "x", [torch.randn(2, 3, 8, 8)])) for _ in range(3)}
    assert len(hashes) == 1


class WithLateConstant(WithConstant):
    """Makes it in the part that trains."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.fc(self.conv(images_BCHW).mean((2, 3))) * torch.tensor([1.0, 2.0])  # type: ignore[no-any-return]


def test_constants_are_where_the_network_is() -> None:
    """They are buffers of the part, and NCCL exchanges none of a CPU. The device without numbers stands for a GPU."""
    model = WithLateConstant()
    model.conv.requires_grad_(False)
    split = split_frozen(model, "x", [torch.randn(2, 3, 8, 8)])
    [buffer] = split.eval_trainable(model).buffers()
    assert buffer.tolist() == [1.0, 2.0]
    [buffer] = split.eval_trainable(copy.deepcopy(model).to("meta")).buffers()
    assert buffer.device.type == "meta"
