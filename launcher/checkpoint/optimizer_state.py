"""An optimizer's state as named tensors: `layer1.0.conv1.weight/exp_avg`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Groups = list[dict[str, list[str]]]
"""For each group the `names` of its parameters and of its `options`; the values of options are the recipe's."""


def read_groups(model: nn.Module, optimizer: Optimizer) -> Groups:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        {"names": [names[id(parameter)] for parameter in group["params"]], "options": sorted({*group} - {"params"})}
        for group in optimizer.param_groups
    ]


def read_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """`parameter/key` -> the tensor itself, not a copy."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if value is not None
    }


def matches(groups: Groups, model: nn.Module, optimizer: Optimizer) -> bool:
    """Whether the optimizer is of the kind of these groups and steps the same parameters.

    Extra groups at the end are allowed: entering a new stage of freezing appends them.
    """

    def identify(each: Groups) -> list[tuple[bool, list[str]]]:
        return [("betas" in group["options"], group["names"]) for group in each]

    return identify(groups) == identify(read_groups(model, optimizer)[: len(groups)])


def load_tensors(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer) -> None:
    """Load what `read_tensors` gave into an optimizer that passes `matches`."""
    names = [name for group in read_groups(model, optimizer) for name in group["names"]]
    numbers = {name: number for number, name in enumerate(names)}
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:  # with the parameter's strides, or the same sums are rounded otherwise
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, device="cpu", requires_grad=False).copy_(tensor)
        state[numbers[name]][key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
