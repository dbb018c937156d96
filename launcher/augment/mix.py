"""Training images mixed in pairs, and their labels with them: blended (mixup), or with a box swapped (cutmix).

Neighbors in a batch are a pair: images 0 and 1, 2 and 3, ... The parameters of a pair depend on (seed, view, its two
sample ids) and on nothing else. As every micro batch is even, the pairs are the same for any number of ranks.

mixup: Zhang et al. 2017, arXiv:1710.09412. cutmix: Yun et al. 2019, arXiv:1905.04899. The formulas are those of
torchvision's `v2.MixUp` and `v2.CutMix`, which draw once for a batch and not once for a pair.

Shapes: B images of H x W pixels in P pairs; K classes; P4 (top, left, bottom, right) in pixels. Parameters are NumPy on
the CPU, as those of `draw`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from launcher import keyed_random
from launcher.augment.arrays import FLOAT64, INT64
from launcher.augment.groups import on_device
from launcher.augment.parameter_hash import HashRecorder, NullParameterHashes
from launcher.recipe.augment import Augment, Mixing

Method = Literal["mixup", "cutmix"]

_MIX = 2
"""Stream of random numbers of mixing; the order of samples and augmentation have others."""
_NUMBERS = 5
"""Uniform numbers for a pair: its method, whether it is mixed, its share, the center of its box."""


@dataclass(frozen=True, slots=True)
class DrawnMix:
    """Parameters of each pair: an image keeps a share, the rest is the other's."""

    blends_P: FLOAT64
    """Share of each pixel outside of the box."""
    boxes_P4: INT64
    """Box in which every pixel is the other's."""
    shares_P: FLOAT64
    """Share of the label."""


@dataclass(frozen=True)
class Mix:
    """`methods`: those that are on, with the alphas of their Beta distributions; each is equally likely.

    `p`: probability that a pair is mixed.
    """

    methods: tuple[tuple[Method, float], ...]
    p: float
    num_classes: int
    hashes: HashRecorder = field(default_factory=NullParameterHashes)
    """Records how each image is mixed."""

    def __call__(
        self, images_BCHW: Tensor, labels_B: Tensor, ids_B: INT64, seed: int, view: int
    ) -> tuple[Tensor, Tensor]:
        """Mixed images_BCHW, and the share of every class in them: targets_BK. B is even; no GPU is waited for."""
        drawn = self.draw(ids_B, seed, view, (images_BCHW.shape[2], images_BCHW.shape[3]))
        values = [np.repeat(values_P, 2, axis=0) for values_P in (drawn.blends_P, drawn.boxes_P4, drawn.shares_P)]
        self.hashes.record(ids_B, view, values)
        blends_B, boxes_B4, shares_B = (on_device(values_B.astype(np.float32), images_BCHW) for values_B in values)
        return mix_images(images_BCHW, blends_B, boxes_B4), mix_labels(labels_B, shares_B, self.num_classes)

    def draw(self, ids_B: INT64, seed: int, view: int, size: tuple[int, int]) -> DrawnMix:
        """`size`: height and width of the images."""
        ids_P2 = ids_B.reshape(-1, 2)
        uniforms_PN = keyed_random.uniform(seed, _MIX, view, ids_P2[:, :1], ids_P2[:, 1:], np.arange(_NUMBERS))
        chosen_P = (uniforms_PN[:, 0] * len(self.methods)).astype(np.int64)
        is_cut_P = np.array([method == "cutmix" for method, _ in self.methods])[chosen_P]
        alphas_P = np.array([alpha for _, alpha in self.methods])[chosen_P]
        # The inverse of Beta's distribution function.
        shares_P = np.where(uniforms_PN[:, 1] < self.p, betaincinv(alphas_P, alphas_P, uniforms_PN[:, 2]), 1.0)
        boxes_P4 = is_cut_P[:, None] * boxes_of(shares_P, uniforms_PN[:, 3:], size)
        areas_P = (boxes_P4[:, 2:] - boxes_P4[:, :2]).prod(axis=1) / (size[0] * size[1])
        return DrawnMix(np.where(is_cut_P, 1.0, shares_P), boxes_P4, np.where(is_cut_P, 1.0 - areas_P, shares_P))


def boxes_of(shares_P: FLOAT64, uniforms_P2: FLOAT64, size: tuple[int, int]) -> INT64:
    """boxes_P4 around uniform centers; outside of each lies this share of the image, or more where an edge cuts it."""
    size_2 = np.array(size, dtype=np.int64)
    centers_P2 = (uniforms_P2 * size_2).astype(np.int64)
    halves_P2 = (0.5 * np.sqrt(1.0 - shares_P)[:, None] * size_2).astype(np.int64)
    return np.concatenate([np.maximum(centers_P2 - halves_P2, 0), np.minimum(centers_P2 + halves_P2, size_2)], axis=1)


def mix_images(images_BCHW: Tensor, blends_B: Tensor, boxes_B4: Tensor) -> Tensor:
    """Each image mixed with the other one of its pair."""
    tops_B1, lefts_B1, bottoms_B1, rights_B1 = boxes_B4[:, :, None].unbind(1)
    rows_H, cols_W = (torch.arange(side, device=images_BCHW.device) for side in images_BCHW.shape[2:])
    rows_BH1 = ((rows_H >= tops_B1) & (rows_H < bottoms_B1))[:, :, None]
    cols_B1W = ((cols_W >= lefts_B1) & (cols_W < rights_B1))[:, None, :]
    weights_BHW = torch.where(rows_BH1 & cols_B1W, 0.0, blends_B[:, None, None])
    return torch.lerp(_others(images_BCHW), images_BCHW, weights_BHW[:, None])


def mix_labels(labels_B: Tensor, shares_B: Tensor, num_classes: int) -> Tensor:
    """Each label mixed with the other one of its pair: targets_BK, float32, rows sum to 1."""
    classes_K = torch.arange(num_classes, device=labels_B.device)
    whole_BK = (labels_B[:, None] == classes_K).float()
    return torch.lerp(_others(whole_BK), whole_BK, shares_B[:, None])


def build_mix(augment: Augment, num_classes: int) -> Mix | None:
    """None where the recipe mixes nothing."""
    sections: tuple[tuple[Method, Mixing | None], ...] = (("mixup", augment.mixup), ("cutmix", augment.cutmix))
    methods = tuple((method, section.alpha) for method, section in sections if section is not None)
    return Mix(methods, augment.mix_p, num_classes) if methods else None


def _others(values: Tensor) -> Tensor:
    """The values of the other image of each pair."""
    return values.view(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)
