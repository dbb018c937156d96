from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import Adam as TorchAdam

from launcher.models.zoo import build_model
from launcher.optim.build import build_optimizer, decay_groups
from launcher.recipe.optim import Adam, Optim, Sgd
from launcher.recipe.backbone import Backbone

DECAY = 0.2


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))


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
    ours = train_five_steps(net, build_optimizer(section, net, "no"))
    theirs = train_five_steps(other, reference(grouped_by_hand(other)))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours[2], list(make_net().parameters())[2])


def test_biases_and_normalisation_do_not_decay() -> None:
    net = build_model(Backbone(name="resnet18"), 3).model
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = [
        {names[id(parameter)] for parameter in group["params"]}  # type: ignore[attr-defined]
        for group in decay_groups(net, DECAY)
    ]
    assert groups[0] == {name for name in names.values() if "conv" in name or name.endswith(("0.weight", "fc.weight"))}
    assert groups[0] | groups[1] == set(names.values())
    assert not groups[0] & groups[1]
    assert [group["weight_decay"] for group in decay_groups(net, DECAY)] == [DECAY, 0.0]


def test_frozen_parameters_are_not_in_the_optimizer() -> None:
    net = make_net()
    net.requires_grad_(False)
    net[3].weight.requires_grad_(True)
    (group,) = build_optimizer(Sgd(name="sgd", lr=0.1), net, "no").param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(net[3].weight)]


def test_an_overflow_is_seen_in_fp16() -> None:
    """By a real gradient scaler: a fused optimizer would leave the step out in silence."""
    net = make_net()
    scaler = torch.amp.GradScaler("cpu")
    optimizer = build_optimizer(Sgd(name="sgd", lr=0.1), net, "fp16")
    scaler.scale(net(torch.full((4, 3, 8, 8), torch.inf)).sum()).backward()
    stepped: list[bool] = []
    optimizer.register_step_post_hook(lambda *_: stepped.append(True))
    scaler.step(optimizer)
    assert stepped == []
