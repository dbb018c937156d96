"""Integer counts, summed over ranks, and the metrics that follow from them. B batch, K classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from launcher.metrics.names import Metrics

MAX_CONFUSION_CLASSES = 1000
"""Largest number of classes for which the confusion matrix (K x K numbers) is kept."""


class Counts:
    """Counts of an evaluation: the same for any division into batches and ranks."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.total = torch.zeros(3, dtype=torch.int64, device=device)
        """Number of images, of top-1 hits, of top-5 hits."""
        self.seen = torch.zeros(1, dtype=torch.int64, device=device)
        """Number of images including unreadable ones; the caller counts it, or leaves 0."""
        self.per_class_K2 = torch.zeros(num_classes, 2, dtype=torch.int64, device=device)
        """Number of images and of top-1 hits for each true class."""
        rows = num_classes if num_classes <= MAX_CONFUSION_CLASSES else 0
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
            self.confusion_KK.view(-1).index_add_(0, labels_B * self.num_classes + top_B5[:, 0], weights_B)
        self.loss_sum += torch.where(weights_B > 0, losses_B, 0.0).double().sum()

    def reduce(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        for tensor in (self.total, self.seen, self.per_class_K2, self.confusion_KK, self.loss_sum):
            if tensor.numel():
                sum_over_ranks(tensor)

    def metrics(self, classes: Sequence[str]) -> Metrics:
        """The recall of a class without images is None. `num_skipped` is there when images could not be read."""
        num_images, top1, top5 = (int(n) for n in self.total.tolist())
        num_skipped = max(int(self.seen[0]) - num_images, 0)
        skipped = {"num_skipped": num_skipped} if num_skipped else {}
        return {
            "num_images": num_images,
            **skipped,
            "loss": float(self.loss_sum.item()) / num_images,
            "accuracy": top1 / num_images,
            "top5_accuracy": top5 / num_images,
            "per_class": {
                name: {"recall": hits / num if num else None, "support": num}
                for name, (num, hits) in zip(classes, self.per_class_K2.tolist(), strict=True)
            },
        }
