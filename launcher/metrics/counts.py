"""Whole-number counts, summed over processes, and the figures they give. B batch, K classes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

MAX_CONFUSION_CLASSES = 1000
"""Above this the confusion matrix (K x K numbers) is not kept."""

Figures = dict[str, Any]


class Counts:
    """What an evaluation counts: exact for any split into batches and processes."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        K = num_classes
        self.num_classes = K
        self.total = torch.zeros(3, dtype=torch.int64, device=device)
        """Images, top-1 hits, top-5 hits."""
        self.seen = torch.zeros(1, dtype=torch.int64, device=device)
        """Images that came by, those that could not be read among them; 0 where nobody counts them."""
        self.per_class_K2 = torch.zeros(K, 2, dtype=torch.int64, device=device)
        """Images and top-1 hits of each true class."""
        rows = K if K <= MAX_CONFUSION_CLASSES else 0
        self.confusion_KK = torch.zeros(rows, rows, dtype=torch.int64, device=device)
        """[true class, predicted class]."""
        self.loss_sum = torch.zeros(1, dtype=torch.float64, device=device)

    def add(self, scores_BK: Tensor, labels_B: Tensor, losses_B: Tensor, weights_B: Tensor) -> None:
        """`weights_B`: 1 counts, 0 is padding."""
        top_B5 = scores_BK.topk(min(5, self.num_classes), dim=1).indices
        hits_B5 = (top_B5 == labels_B[:, None]) & (weights_B[:, None] > 0)
        self.total += torch.stack([weights_B.sum(), hits_B5[:, 0].sum(), hits_B5.sum()])
        self.per_class_K2.index_add_(0, labels_B, torch.stack([weights_B, hits_B5[:, 0].long()], dim=1))
        if len(self.confusion_KK):
            flat = self.confusion_KK.view(-1)
            flat.index_add_(0, labels_B * self.num_classes + top_B5[:, 0], weights_B)
        self.loss_sum += torch.where(weights_B > 0, losses_B, 0.0).double().sum()

    def reduce(self, sum_over_processes: Callable[[Tensor], Tensor]) -> None:
        for tensor in (self.total, self.seen, self.per_class_K2, self.confusion_KK, self.loss_sum):
            if tensor.numel():
                sum_over_processes(tensor)

    def figures(self, classes: Sequence[str]) -> Figures:
        """`loss` (nats), `top1_frac`, `top5_frac`, `num_images`, `per_class` (class name -> top1_frac, num_images)."""
        num_images, top1, top5 = (int(n) for n in self.total.tolist())
        num_left_out = max(int(self.seen[0]) - num_images, 0)
        left_out = {"num_left_out": num_left_out} if num_left_out else {}
        return {
            "num_images": num_images,
            **left_out,
            "loss": float(self.loss_sum.item()) / num_images,
            "top1_frac": top1 / num_images,
            "top5_frac": top5 / num_images,
            "per_class": {
                name: {"top1_frac": hits / num if num else None, "num_images": num}
                for name, (num, hits) in zip(classes, self.per_class_K2.tolist(), strict=True)
            },
        }


def is_better(metric: str, figures: Figures, best_value: float | None) -> bool:
    """Losses fall, fractions rise; what has a loss that is not a number is never better."""
    if not math.isfinite(figures["loss"]):
        return False
    value = figures[metric]
    return best_value is None or (value < best_value if metric == "loss" else value > best_value)


class Stopwatch:
    """Time spent training, without evaluation and saving, and the part of it spent waiting for data."""

    def __init__(self) -> None:
        self.images = 0
        self.train_s = 0.0
        self.wait_s = 0.0
        self._since = time.perf_counter()
        self._lap = (0, 0.0, 0.0)

    def resume(self) -> None:
        self._since = time.perf_counter()

    def pause(self) -> None:
        self.train_s += time.perf_counter() - self._since
        self._since = time.perf_counter()

    def lap(self) -> Figures:
        """`images_per_s` and `data_wait_frac` since the last lap."""
        self.pause()
        images, train_s, wait_s = self.images - self._lap[0], self.train_s - self._lap[1], self.wait_s - self._lap[2]
        self._lap = (self.images, self.train_s, self.wait_s)
        return _rates(images, train_s, wait_s)

    def whole(self) -> Figures:
        """`images_per_s` and `data_wait_frac` since the start of this process."""
        return _rates(self.images, self.train_s, self.wait_s)


def _rates(images: int, train_s: float, wait_s: float) -> Figures:
    return {
        "images_per_s": round(images / train_s, 1) if train_s else 0.0,
        "data_wait_frac": round(min(wait_s / train_s, 1.0), 4) if train_s else 0.0,
    }
