"""Pretrained weights in the cache on this machine: finding and downloading them, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision

from launcher.errors import UserError
from launcher.models import timm
from launcher.models.weights import ADVICE
from launcher.recipe.backbone import Backbone


@dataclass(frozen=True)
class Fetched:
    """`path`: of the file. `is_new`: downloaded just now."""

    path: Path
    is_new: bool


def fetch_weights(backbone: Backbone) -> Fetched:
    """The weights of the recipe, in the cache that training reads. Names must have been checked.

    Raise UserError when they cannot be downloaded.
    """
    if backbone.name.startswith(timm.PREFIX):
        if found := timm.find_weights(backbone.name):
            return Fetched(found, is_new=False)
        timm.build_timm(backbone.name, pretrained=True, keep=False)  # timm downloads what it loads
        return Fetched(timm.find_weights(backbone.name) or Path(torch.hub.get_dir()), is_new=True)
    try:
        return fetch_named(backbone.name, backbone.weights)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"backbone.weights: {backbone.name} {backbone.weights} cannot be downloaded to {folder} ({error}); {ADVICE}"
        ) from None


def fetch_named(name: str, weights: str) -> Fetched:
    """Weights of torchvision. Raise OSError, or RuntimeError for a wrong hash, when they cannot be downloaded."""
    url = torchvision.models.get_model_weights(name)[weights].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if path.exists():
        return Fetched(path, is_new=False)
    # Names of torchvision's files end in the first digits of the SHA-256.
    digits = path.stem.rpartition("-")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
    return Fetched(path, is_new=True)
