"""Freezing: no gradients, BatchNorm and dropout as in evaluation, tensors whose hash is the same at the end.

`freeze` takes the gradients from named parameters; everything else here reads from the parameters what is frozen.
"""

from __future__ import annotations

import fnmatch
import hashlib
from itertools import accumulate

from torch import nn

from launcher.errors import UserError, nearest
from launcher.models.weights import is_in
from launcher.models.zoo import Network, build_shapes
from launcher.recipe.backbone import Backbone, FreezeSchedule, Parts
from launcher.recipe.fields import with_values
from launcher.recipe.problem import Problem

FEWEST_BLOCKS = 4
"""Networks with fewer children are searched deeper: DenseNet's blocks are in `features`, ViT's in `encoder.layers`."""


def check_freeze(backbone: Backbone) -> list[Problem]:
    """Names in `backbone.freeze` that the network does not have, and stages that free nothing. Downloads nothing."""
    stages = backbone.stages
    if len(stages) == 1 and stages[0].freeze in ("none", "backbone"):
        return []
    network = build_shapes(with_values(backbone, {"weights": "none", "head": {}}))
    problems, before = [], None
    for i, stage in enumerate(stages):
        path = (
            f"backbone.freeze.schedule.{i}.freeze" if isinstance(backbone.freeze, FreezeSchedule) else "backbone.freeze"
        )
        try:
            frozen = frozen_names(network, stage.freeze)
        except UserError as error:
            problems.append(Problem(path, str(error), ("backbone.name",)))
            continue
        if before is not None and not frozen < before:
            problems.append(Problem(path, "must freeze less than the stage before"))
        before = frozen
    return problems


Block = tuple[str, ...]
"""Names of modules: a layer or a group of layers, and the normalisation that follows it."""


def find_blocks(network: Network) -> list[Block]:
    """The parts of the backbone with parameters, in the order of their definition."""
    names = [""]
    while len(blocks := _with_norms(network, names)) < FEWEST_BLOCKS:
        finer = [inner for name in names for inner in _split(network, name)]
        if finer == names:
            break
        names = finer
    return blocks


def _with_norms(network: Network, names: list[str]) -> list[Block]:
    """Blocks of the named modules; one without parameters of two or more dimensions joins the block before it."""
    blocks: list[Block] = []
    for name in names:
        is_norm = all(parameter.ndim < 2 for parameter in _backbone_parameters(network, name))
        if is_norm and blocks:
            blocks[-1] = (*blocks[-1], name)
        else:
            blocks.append((name,))
    return blocks


def _split(network: Network, module_name: str) -> list[str]:
    """The children with parameters beside those of heads; the module itself when there are none."""
    children = [name for name, _ in network.model.get_submodule(module_name).named_children()]
    names = [f"{module_name}.{name}".lstrip(".") for name in children]
    return [name for name in names if _backbone_parameters(network, name)] or [module_name]


def _backbone_parameters(network: Network, module_name: str) -> list[nn.Parameter]:
    """Parameters of the module that are in no head."""
    named = network.model.get_submodule(module_name).named_parameters(prefix=module_name)
    return [parameter for name, parameter in named if not is_in(name, network.head_names)]


def frozen_names(network: Network, parts: Parts) -> frozenset[str]:
    """Names of the parameters that `parts` of a recipe freezes.

    Raise UserError when the network does not have a part, or nothing is left to train or to freeze.
    """
    names = [name for name, _ in network.model.named_parameters()]
    if parts == "none":
        return frozenset()
    if isinstance(parts, tuple):
        frozen = _matching(names, parts)
    else:
        trained = [*network.head_names, *(_last_blocks(network, parts.except_last) if parts != "backbone" else ())]
        frozen = frozenset(name for name in names if not is_in(name, trained))
    if len(frozen) == len(names):
        raise UserError("leaves nothing to train")
    if not frozen:
        raise UserError("freezes nothing: write none")
    return frozen


def _last_blocks(network: Network, num: int) -> list[str]:
    blocks = find_blocks(network)
    if num > len(blocks):
        shown = ", ".join(" + ".join(block) for block in blocks)
        raise UserError(f"the backbone has {len(blocks)} blocks, not {num} ({shown}); to train all write none")
    return [name for block in blocks[-num:] for name in block]


def _matching(names: list[str], patterns: tuple[str, ...]) -> frozenset[str]:
    # The parts of `a.b.c` are `a`, `a.b` and `a.b.c`.
    parts = {name: list(accumulate(name.split("."), "{}.{}".format)) for name in names}
    known = set().union(*parts.values())
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise UserError(f"'{pattern}' is no part of the network{nearest(pattern, known)}")
    return frozenset(name for name in names if any(fnmatch.filter(parts[name], pattern) for pattern in patterns))


def freeze(network: Network, parts: Parts) -> None:
    """Take gradients from the parameters that `parts` of a recipe freezes, give them to all others.

    Raise UserError as `frozen_names`.
    """
    frozen = frozen_names(network, parts)
    for name, parameter in network.model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def training_modes(model: nn.Module) -> dict[str, bool]:
    """Module name -> whether it must be in training mode.

    A module with parameters: when some of them train. One without, such as dropout: when all parameters of the module
    around it train, or when it comes after the first parameter that trains.
    """
    modes: dict[str, bool] = {}
    _add_modes(model, "", False, modes)
    by_module = {module: modes[name] for name, module in model.named_modules()}  # under the first of its names
    return {name: by_module[module] for name, module in model.named_modules(remove_duplicate=False)}


def _add_modes(module: nn.Module, name: str, is_later: bool, modes: dict[str, bool]) -> bool:
    """Fill in `modes`; return whether a parameter that trains has come by the end of this module."""
    trains = [parameter.requires_grad for parameter in module.parameters()]
    if any(trains) and not all(trains):
        modes[name] = True
        is_later = is_later or any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        for child_name, child in module.named_children():
            is_later = _add_modes(child, f"{name}.{child_name}".lstrip("."), is_later, modes)
        return is_later
    mode = all(trains) if trains else is_later
    for inner, _ in module.named_modules(prefix=name):
        modes[inner] = mode
    return is_later or any(trains)


def set_training(model: nn.Module) -> None:
    """`.train()` for modules that train only: a frozen BatchNorm would update its statistics."""
    modes = training_modes(model)
    for name, module in model.named_modules():
        module.training = modes[name]


def frozen_tensors(model: nn.Module) -> list[str]:
    """Names of the parameters without gradient, and of the buffers of modules that are not in training mode."""
    modes = training_modes(model)
    trained = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    trained |= {name for name, _ in model.named_buffers(remove_duplicate=False) if modes[name.rpartition(".")[0]]}
    return [name for name in model.state_dict() if name not in trained]


def frozen_sha256(model: nn.Module) -> str | None:
    """Hash of every frozen tensor; None when nothing is frozen."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        return None
    digest, tensors = hashlib.sha256(), model.state_dict()
    for name in frozen_tensors(model):
        digest.update(name.encode())
        digest.update(tensors[name].detach().contiguous().cpu().view(-1).numpy().tobytes())
    return digest.hexdigest()
