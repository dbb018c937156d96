"""Networks of timm, an optional library: `backbone.name: timm/<name>`. It is imported when one is named only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from launcher.errors import UserError, nearest
from launcher.text import first_line

PREFIX = "timm/"
IMAGENET_CLASSES = 1000


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise UserError("timm is not installed; pip install 'launcher[timm]'") from None
    return timm


def check_timm(name: str, weights: str | None) -> tuple[str, str] | None:
    """Key of `backbone` and what is wrong with it. `weights`: `none`, `DEFAULT`, or null for a file."""
    try:
        timm = _import_timm()
    except UserError as error:
        return "name", str(error)
    bare = name.removeprefix(PREFIX)
    names = {*timm.list_models(), *timm.list_pretrained()}
    if bare not in names:
        return "name", f"no such model '{name}'{nearest(name, [PREFIX + valid for valid in names])}"
    if weights in ("none", None):
        return None
    if weights != "DEFAULT":
        tags = [f"{PREFIX}{valid}" for valid in timm.list_pretrained(f"{bare.partition('.')[0]}.*")]
        return "weights", f"timm has DEFAULT, none or a file, not '{weights}'; other weights by name: {', '.join(tags)}"
    if not timm.is_model_pretrained(bare):
        return "weights", f"{name} has no pretrained weights; write none, or name a file"
    return None


def is_timm_model(bare: str) -> bool:
    """Whether timm is here and has it: for a user who left the prefix out."""
    try:
        return bool(_import_timm().is_model(bare))
    except UserError:
        return False


def read_timm_data(name: str) -> dict[str, Any]:
    """How the pretrained weights want an image: input_size (channels, height, width), crop_pct, crop_mode, ..."""
    timm = _import_timm()
    config = timm.get_pretrained_cfg(name.removeprefix(PREFIX), allow_unregistered=False)
    data: dict[str, Any] = timm.data.resolve_data_config({}, pretrained_cfg=config.to_dict())
    return data


def find_weights(name: str) -> Path | None:
    """The file of the pretrained weights in the caches of Hugging Face or PyTorch, null while it is not there."""
    from huggingface_hub import try_to_load_from_cache

    config = _import_timm().get_pretrained_cfg(name.removeprefix(PREFIX))
    if not config.hf_hub_id:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(config.url).path).name
        return path if path.exists() else None
    repository, _, revision = config.hf_hub_id.partition("@")
    named = config.hf_hub_filename or "pytorch_model.bin"
    for file in ("model.safetensors", named.removesuffix(".bin") + ".safetensors", named):
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def download_weights(name: str) -> Path:
    """Have timm load the pretrained weights once. Raise UserError when they are not to be had."""
    build_timm(name, pretrained=True, keep=False)
    return find_weights(name) or Path(torch.hub.get_dir())


def tracing_leaves() -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., object], ...]]:
    """Modules and functions of timm that torch.fx cannot look into, and takes whole."""
    timm = _import_timm()
    return tuple(timm.models.get_notrace_modules()), tuple(timm.models.get_notrace_functions())


def build_timm(name: str, pretrained: bool, keep: bool) -> tuple[nn.Module, int]:
    """The network, and how many outputs it has: the weights' own when these are to be kept, else ImageNet's 1,000.

    Raise UserError when timm or the weights are not to be had.
    """
    timm = _import_timm()
    bare = name.removeprefix(PREFIX)
    config = timm.get_pretrained_cfg(bare, allow_unregistered=True)
    num_outputs = int(config.num_classes) if keep and config is not None else IMAGENET_CLASSES
    if num_outputs == 0:
        raise UserError(f"backbone.head: {name} has no classifier to keep; write head: {{}} for a new one")
    try:
        model = timm.create_model(bare, pretrained=pretrained, num_classes=num_outputs)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = first_line(error)
        raise UserError(
            f"backbone.weights: {name} DEFAULT cannot be loaded ({reason}); "
            "run launcher fetch where there is a network, or set backbone.weights=none"
        ) from None
    return model, num_outputs
