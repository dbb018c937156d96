"""Training images mixed in pairs, and their labels with them: blended (mixup), or with a box swapped (cutmix).

Neighbours in a batch are a pair: images 0 and 1, 2 and 3, ... What is drawn for a pair depends on (seed, epoch, its two
sample ids) and on nothing else. As every micro batch is even, the pairs are the same for any number of processes.

mixup: Zhang et al. 2017, arXiv:1710.09412. cutmix: Yun et al. 2019, arXiv:1905.04899. The formulas are those of
torchvision's `v2.MixUp` and `v2.CutMix`, which draw once for a batch and not once for a pair.

Shapes: B images of H x W pixels in P pairs; K classes; P4 (top, left, bottom, right) in pixels. Parameters are NumPy on
the CPU, as those of `draw`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from launcher import keyed_random
from launcher.augment.draw import FLOAT64, INT64
from launcher.augment.parameter_hash import Record, record_nothing
from launcher.recipe.augment import Augment, Mixing

Method = Literal["mixup", "cutmix"]

_MIX = 2
"""Stream of random numbers that belongs to mixing; the order of samples and augmentation have others."""
_NUMBERS = 5
"""Uniform numbers for a pair: its method, whether it is mixed, its share, the middle of its box."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """How the images of each pair are mixed. An image's own share, the rest is the other's: `blends_P` of each pixel
    outside of the box, `shares_P` of the label. Inside of `boxes_P4` everything is the other's."""

    blends_P: FLOAT64
    boxes_P4: INT64
    shares_P: FLOAT64


@dataclass(frozen=True)
class Mix:
    """`methods`: those that are on, with the alphas of their Beta distributions; each pair draws one of them, evenly.

    `p`: share of the pairs that are mixed.
    """

    methods: tuple[tuple[Method, float], ...]
    p: float
    num_classes: int
    record: Record = record_nothing
    """Is told how each image is about to be mixed."""

    def __call__(
        self, images_BCHW: Tensor, labels_B: Tensor, ids_B: INT64, seed: int, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Mixed images_BCHW, and the share of every class in them: targets_BK. B is even; nothing waits for a GPU."""
        drawn = self.draw(ids_B, seed, epoch, (images_BCHW.shape[2], images_BCHW.shape[3]))
        values = (drawn.blends_P, drawn.boxes_P4, drawn.shares_P)
        self.record(ids_B, epoch, [np.repeat(values_P, 2, axis=0) for values_P in values])

        def on_device(values_P: FLOAT64 | INT64) -> Tensor:
            values_B = np.repeat(values_P, 2, axis=0).astype(np.float32)
            return torch.from_numpy(values_B).to(images_BCHW.device, non_blocking=True)

        mixed_BCHW = mix_images(images_BCHW, on_device(drawn.blends_P), on_device(drawn.boxes_P4))
        return mixed_BCHW, mix_labels(labels_B, on_device(drawn.shares_P), self.num_classes)

    def draw(self, ids_B: INT64, seed: int, epoch: int, size: tuple[int, int]) -> Drawn:
        """`size`: height and width of the images."""
        ids_P2 = ids_B.reshape(-1, 2)
        uniforms_PN = keyed_random.uniform(seed, _MIX, epoch, ids_P2[:, :1], ids_P2[:, 1:], np.arange(_NUMBERS))
        chosen_P = (uniforms_PN[:, 0] * len(self.methods)).astype(np.int64)
        is_cut_P = np.array([method == "cutmix" for method, _ in self.methods])[chosen_P]
        alphas_P = np.array([alpha for _, alpha in self.methods])[chosen_P]
        # The inverse of Beta's distribution function.
        shares_P = np.where(uniforms_PN[:, 1] < self.p, betaincinv(alphas_P, alphas_P, uniforms_PN[:, 2]), 1.0)
        boxes_P4 = is_cut_P[:, None] * boxes_of(shares_P, uniforms_PN[:, 3:], size)
        areas_P = (boxes_P4[:, 2:] - boxes_P4[:, :2]).prod(axis=1) / (size[0] * size[1])
        return Drawn(np.where(is_cut_P, 1.0, shares_P), boxes_P4, np.where(is_cut_P, 1.0 - areas_P, shares_P))


def boxes_of(shares_P: FLOAT64, uniforms_P2: FLOAT64, size: tuple[int, int]) -> INT64:
    """boxes_P4 around uniform middles; outside of each is this share of the image, or more where an edge cuts it."""
    size_2 = np.array(size, dtype=np.int64)
    middles_P2 = (uniforms_P2 * size_2).astype(np.int64)
    halves_P2 = (0.5 * np.sqrt(1.0 - shares_P)[:, None] * size_2).astype(np.int64)
    return np.concatenate([np.maximum(middles_P2 - halves_P2, 0), np.minimum(middles_P2 + halves_P2, size_2)], axis=1)


def mix_images(images_BCHW: Tensor, blends_B: Tensor, boxes_B4: Tensor) -> Tensor:
    """Each image mixed with the other of its pair."""
    tops_B1, lefts_B1, bottoms_B1, rights_B1 = boxes_B4[:, :, None].unbind(1)
    rows_H, cols_W = (torch.arange(side, device=images_BCHW.device) for side in images_BCHW.shape[2:])
    rows_BH1 = ((rows_H >= tops_B1) & (rows_H < bottoms_B1))[:, :, None]
    cols_B1W = ((cols_W >= lefts_B1) & (cols_W < rights_B1))[:, None, :]
    weights_BHW = torch.where(rows_BH1 & cols_B1W, 0.0, blends_B[:, None, None])
    return torch.lerp(_others(images_BCHW), images_BCHW, weights_BHW[:, None])


def mix_labels(labels_B: Tensor, shares_B: Tensor, num_classes: int) -> Tensor:
    """Each label mixed with the other of its pair: targets_BK, float32, each row adds up to 1."""
    classes_K = torch.arange(num_classes, device=labels_B.device)
    whole_BK = (labels_B[:, None] == classes_K).float()
    return torch.lerp(_others(whole_BK), whole_BK, shares_B[:, None])


def build_mix(augment: Augment, num_classes: int) -> Mix | None:
    """None where the recipe mixes nothing."""
    sections: tuple[tuple[Method, Mixing | None], ...] = (("mixup", augment.mixup), ("cutmix", augment.cutmix))
    methods = tuple((method, section.alpha) for method, section in sections if section is not None)
    return Mix(methods, augment.mix_p, num_classes) if methods else None


def _others(values: Tensor) -> Tensor:
    """For each image that of the other of its pair."""
    return values.view(-1, 2, *values.shape[1:]).flip(1).reshape(values.shape)
