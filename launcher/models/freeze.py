"""Frozen is frozen: no gradients, BatchNorm and dropout as in evaluation, tensors that hash the same at the end."""

from __future__ import annotations

import hashlib

from launcher.models.zoo import Network
from launcher.recipe.schema import Backbone


def freeze(network: Network, backbone: Backbone) -> None:
    """Take gradients from everything outside of the head when the recipe says so."""
    if backbone.freeze == "backbone":
        network.model.requires_grad_(False)
        for name in network.head_names:
            network.model.get_submodule(name).requires_grad_(True)


def set_training(network: Network, backbone: Backbone) -> None:
    """`.train()` for what trains only: a frozen BatchNorm would go on counting statistics."""
    if backbone.freeze == "backbone":
        network.model.eval()
        for name in network.head_names:
            network.model.get_submodule(name).train()
    else:
        network.model.train()


def frozen_sha256(network: Network, backbone: Backbone) -> str | None:
    """Hash of every parameter and buffer outside of the head; None when nothing is frozen."""
    if backbone.freeze == "none":
        return None
    digest = hashlib.sha256()
    heads = tuple(f"{name}." for name in network.head_names)
    for name, tensor in network.model.state_dict().items():
        if not name.startswith(heads):
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().cpu().view(-1).numpy().tobytes())
    return digest.hexdigest()
