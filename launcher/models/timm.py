"""Networks of timm, an optional library, imported for `backbone.name: timm/<name>` only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from launcher.errors import UserError, nearest
from launcher.models.weights import ADVICE
from launcher.recipe.problem import Problem
from launcher.text import first_line

PREFIX = "timm/"
IMAGENET_CLASSES = 1000

Leaves = tuple[tuple[type[nn.Module], ...], tuple[Callable[..., object], ...]]
"""Modules and functions that torch.fx cannot trace, and takes as one operation."""

BatchNormConversion = tuple[Callable[[nn.Module], nn.Module], dict[type[nn.Module], type[nn.Module]]]
"""The function that makes SyncBatchNorm of a model's BatchNorm, and which class becomes which."""


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise UserError("timm is not installed; pip install 'launcher[timm]'") from None
    return timm


def check_timm(name: str, weights: str | None) -> Problem | None:
    """A problem with the name or the weights. `weights`: `none`, `DEFAULT`, or None for a file."""
    try:
        timm = _import_timm()
    except UserError as error:
        return Problem("backbone.name", str(error))
    bare = name.removeprefix(PREFIX)
    names = {*timm.list_models(), *timm.list_pretrained()}
    if bare not in names:
        valid = nearest(name, [PREFIX + each for each in names])
        return Problem("backbone.name", f"no such model '{name}'{valid}")
    if weights in ("none", None):
        return None
    if weights != "DEFAULT":
        tags = ", ".join(PREFIX + each for each in timm.list_pretrained(f"{bare.partition('.')[0]}.*"))
        message = f"must be DEFAULT, none or a file, not '{weights}'; other weights by name: {tags}"
        return Problem("backbone.weights", message)
    if not timm.is_model_pretrained(bare):
        return Problem("backbone.weights", f"{name} has no pretrained weights; write none, or name a file")
    return None


def is_timm_model(bare: str) -> bool:
    """Whether timm is installed and has this model."""
    try:
        return bool(_import_timm().is_model(bare))
    except UserError:
        return False


def read_timm_data(name: str) -> dict[str, Any]:
    """timm's data config of the pretrained weights: input_size (channels, height, width), crop_pct, crop_mode, ..."""
    timm = _import_timm()
    config = timm.get_pretrained_cfg(name.removeprefix(PREFIX), allow_unregistered=False)
    data: dict[str, Any] = timm.data.resolve_data_config({}, pretrained_cfg=config.to_dict())
    return data


def find_weights(name: str) -> Path | None:
    """File of the pretrained weights in the cache of Hugging Face or PyTorch; None when there is none."""
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


def tracing_leaves() -> Leaves:
    timm = _import_timm()
    return tuple(timm.models.get_notrace_modules()), tuple(timm.models.get_notrace_functions())


def timm_batchnorm_conversion() -> BatchNormConversion:
    """timm's own conversion: torch's drops the activation of a BatchNormAct2d. It converts plain BatchNorm, too."""
    layers = _import_timm().layers
    return layers.convert_sync_batchnorm, {layers.BatchNormAct2d: layers.SyncBatchNormAct}


def build_timm(name: str, pretrained: bool, keep: bool) -> tuple[nn.Module, int]:
    """The network and its number of outputs: that of the weights with `keep`, else ImageNet's 1,000.

    Raise UserError when timm is not installed or the weights cannot be loaded.
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
        raise UserError(f"backbone.weights: {name} DEFAULT cannot be loaded ({first_line(error)}); {ADVICE}") from None
    return model, num_outputs
