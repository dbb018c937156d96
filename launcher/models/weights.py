"""Weights from a file: safetensors, or a state dict that holds nothing but tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.errors import UserError
from launcher.text import first_line

WRAPPERS = ("state_dict", "model")
"""Keys of the state dict in files that hold other things, too."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes of all names in files saved with DDP, torch.compile and Lightning."""

ADVICE = "run launcher fetch where there is a network, or set backbone.weights=none"
"""End of an error line when weights cannot be downloaded."""

SHOWN_NAMES = 3
"""Names of each kind in an error message."""


def read_weights(file: Path, names: Collection[str]) -> dict[str, Tensor]:
    """The tensors in `file`, without prefixes that none of `names`, those of the network, has.

    Raise UserError when the file cannot be read or is no state dict.
    """
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _read_pickled(file)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"backbone.weights: {file} cannot be read: {first_line(error)}") from None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"backbone.weights: {file} is no state dict: save model.state_dict() or use safetensors")
    return _without_prefixes({str(name): tensor for name, tensor in content.items()}, names)


def _read_pickled(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # damaged bytes can raise anything; torch's own message advises to execute them
        raise RuntimeError("it is damaged, or holds more than tensors; save it as safetensors") from None


def _without_prefixes(tensors: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    common = [prefix for prefix in PREFIXES if tensors and all(name.startswith(prefix) for name in tensors)]
    if not common or any(name.startswith(common[0]) for name in names):
        return tensors
    return _without_prefixes({name.removeprefix(common[0]): tensor for name, tensor in tensors.items()}, names)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], skip: Collection[str], file: Path) -> None:
    """Copy `tensors` into the model; modules named in `skip` keep what they have.

    Raise UserError when the rest does not fit exactly, and then change nothing.
    """
    given = {name: tensor for name, tensor in tensors.items() if not is_in(name, skip)}
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not is_in(name, skip)}
    # Files from before PyTorch 0.4.1 and many converted ones lack these counters; BatchNorm with momentum ignores them.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    misshapen = [
        f"{name} {list(given[name].shape)} for {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if found := [_show(kind, names) for kind, names in kinds.items() if names]:
        raise UserError(f"backbone.weights: {file} does not fit backbone.name: {'; '.join(found)}")
    model.load_state_dict(given, strict=False)


def is_in(name: str, modules: Collection[str]) -> bool:
    """Whether the tensor `name` is in one of these modules."""
    return any(name.startswith(f"{module}.") for module in modules)


def _show(kind: str, names: list[str]) -> str:
    more = ", ..." if len(names) > SHOWN_NAMES else ""
    return f"{len(names)} {kind} ({', '.join(names[:SHOWN_NAMES])}{more})"
