from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import Adam as TorchAdam

from launcher.models.frozen.freeze import find_blocks, freeze
from launcher.models.optim.build import Group, build_groups, build_optimizer
from launcher.models.zoo import Network, build_shapes
from launcher.recipe.backbone import Backbone, ExceptLast
from launcher.recipe.optim import Adam, Optim, Sgd

DECAY = 0.2


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))


def build(optim: Optim, net: nn.Module, precision: str = "no") -> Optimizer:
    return build_optimizer(optim, build_groups(optim, net, (), ()), precision)


def train_five_steps(net: nn.Module, optimizer: Optimizer) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        images_BCHW = torch.randn(4, 3, 8, 8, generator=generator)
        net(images_BCHW).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach() for parameter in net.parameters()]


def grouped_by_hand(net: nn.Sequential) -> list[dict[str, Any]]:
    norm, conv, _, linear = net
    plain = [norm.weight, norm.bias, conv.bias, linear.bias]
    return [{"params": [conv.weight, linear.weight], "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]


Groups = Iterable[dict[str, Any]]
CASES: list[tuple[Optim, Callable[[Groups], Optimizer]]] = [
    (
        Sgd(name="sgd", lr=0.1, momentum=0.8, nesterov=True, weight_decay=DECAY),
        lambda groups: SGD(groups, lr=0.1, momentum=0.8, nesterov=True),
    ),
    (Sgd(name="sgd", lr=0.1, momentum=0.0, weight_decay=DECAY), lambda groups: SGD(groups, lr=0.1)),
    (
        Adam(name="adam", lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=DECAY),
        lambda groups: TorchAdam(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-6),
    ),
    (
        Adam(name="adamw", lr=0.01, weight_decay=DECAY),
        lambda groups: AdamW(groups, lr=0.01, betas=(0.9, 0.999), eps=1e-8),
    ),
]


@pytest.mark.parametrize(("section", "reference"), CASES, ids=["nesterov", "sgd", "adam", "adamw"])
def test_five_steps_are_those_of_torchs_optimizer(section: Optim, reference: Callable[[Groups], Optimizer]) -> None:
    net, other = make_net(), make_net()
    ours = train_five_steps(net, build(section, net))
    theirs = train_five_steps(other, reference(grouped_by_hand(other)))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours[2], list(make_net().parameters())[2])


def groups_of(network: Network, but: tuple[str, ...] = (), **options: Any) -> list[Group]:
    optim = Sgd(name="sgd", lr=0.1, weight_decay=DECAY, **options)
    return build_groups(optim, network.model, network.head_names, find_blocks(network), but)


def names_in(network: Network, group: Group) -> list[str]:
    names = {id(parameter): name for name, parameter in network.model.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


def scales_of(network: Network, **options: Any) -> dict[str, float]:
    """Module of two levels -> `lr_scale`, which all of its parameters must share."""
    found: dict[str, set[float]] = {}
    for group in groups_of(network, **options):
        for name in names_in(network, group):
            found.setdefault(name.split(".")[0], set()).add(round(group["lr_scale"], 6))
    return {module: scales.pop() for module, scales in found.items() if len(scales) == 1}


@pytest.fixture(scope="module")
def resnet() -> Network:
    return build_shapes(Backbone(name="resnet18"))


def test_biases_and_normalisation_do_not_decay(resnet: Network) -> None:
    weights, others = groups_of(resnet)
    names = [name for name, _ in resnet.model.named_parameters()]
    decaying = [name for name in names if "conv" in name or name.endswith(("0.weight", "fc.weight"))]
    assert names_in(resnet, weights) == decaying
    assert names_in(resnet, others) == [name for name in names if name not in decaying]
    assert [(group["weight_decay"], group["lr_scale"]) for group in (weights, others)] == [(DECAY, 1.0), (0.0, 1.0)]


def test_backbone_lr_is_the_rate_of_the_backbone(resnet: Network) -> None:
    groups = groups_of(resnet, backbone_lr=0.02)
    assert [(round(group["lr_scale"], 9), group["weight_decay"]) for group in groups] == [
        (0.2, DECAY),
        (0.2, 0.0),
        (1.0, DECAY),
        (1.0, 0.0),
    ]
    assert [names_in(resnet, group) for group in groups[2:]] == [["fc.weight"], ["fc.bias"]]


def test_layer_decay_lowers_rates_from_block_to_block(resnet: Network) -> None:
    blocks = {"layer4": 0.5, "layer3": 0.25, "layer2": 0.125, "layer1": 0.0625}
    assert scales_of(resnet, layer_decay=0.5) == {"conv1": 0.03125, "bn1": 0.03125, **blocks, "fc": 1.0}


def test_layer_decay_covers_all_of_a_vision_transformer() -> None:
    network = build_shapes(Backbone(name="vit_b_32"))
    found = {
        name: group["lr_scale"] for group in groups_of(network, layer_decay=0.9) for name in names_in(network, group)
    }
    some = {
        "class_token": 14,
        "encoder.pos_embedding": 14,
        "conv_proj.weight": 13,
        "encoder.layers.encoder_layer_0.ln_1.weight": 12,
        "encoder.layers.encoder_layer_1.mlp.0.bias": 11,
        "encoder.layers.encoder_layer_10.self_attention.in_proj_weight": 2,
        "encoder.layers.encoder_layer_11.ln_2.bias": 1,
        "encoder.ln.weight": 1,
        "heads.head.weight": 0,
    }
    assert {name: found[name] for name in some} == pytest.approx({name: 0.9**power for name, power in some.items()})


def test_rates_do_not_depend_on_what_is_frozen(resnet: Network) -> None:
    free = scales_of(resnet, layer_decay=0.5)
    freeze(resnet, ExceptLast(except_last=2))
    some = scales_of(resnet, layer_decay=0.5)
    freeze(resnet, "none")
    assert some == {name: free[name] for name in ("layer3", "layer4", "fc")}


def test_parameters_that_are_freed_later_get_groups_of_their_own(resnet: Network) -> None:
    freeze(resnet, ExceptLast(except_last=1))
    first = [name for group in groups_of(resnet, layer_decay=0.5) for name in names_in(resnet, group)]
    freeze(resnet, "none")
    later = [name for group in groups_of(resnet, tuple(first), layer_decay=0.5) for name in names_in(resnet, group)]
    assert sorted(first + later) == sorted(name for name, _ in resnet.model.named_parameters())
    assert {name.split(".")[0] for name in first} == {"layer4", "fc"}


def test_groups_come_in_the_order_of_the_network(resnet: Network) -> None:
    found = [names_in(resnet, group)[0] for group in groups_of(resnet, layer_decay=0.5)]
    assert found == [
        "conv1.weight",
        "bn1.weight",
        *(f"layer{i}.0.{name}.weight" for i in (1, 2, 3, 4) for name in ("conv1", "bn1")),
        "fc.weight",
        "fc.bias",
    ]


def test_frozen_parameters_are_not_in_the_optimizer() -> None:
    net = make_net()
    net.requires_grad_(False)
    net[3].weight.requires_grad_(True)
    (group,) = build(Sgd(name="sgd", lr=0.1), net).param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(net[3].weight)]


def test_fp16_has_no_fused_optimizer_that_hides_an_overflow() -> None:
    """With a real gradient scaler: a fused optimizer would skip the step in silence."""
    net = make_net()
    scaler = torch.amp.GradScaler("cpu")
    optimizer = build(Sgd(name="sgd", lr=0.1), net, "fp16")
    scaler.scale(net(torch.full((4, 3, 8, 8), torch.inf)).sum()).backward()
    stepped: list[bool] = []
    optimizer.register_step_post_hook(lambda *_: stepped.append(True))
    scaler.step(optimizer)
    assert stepped == []
