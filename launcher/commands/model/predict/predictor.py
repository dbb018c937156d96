"""Predictions for all images, computed by all ranks together.

B batch, C channels, H x W pixels, K classes, T the most probable classes of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from launcher.commands.model.infer import TEST_TRANSFORMS
from launcher.commands.model.options import TransformName
from launcher.commands.model.predict.classifier import Classifier
from launcher.commands.model.predict.output import Prediction
from launcher.data.feed import Examples, ImageFeed
from launcher.data.image_files import UNKNOWN
from launcher.models.loss import class_scores
from launcher.run.image_grid import Captioned, to_pixels

BATCH = 32
"""Images per forward pass. Small, because with a GPU all of them are in memory at their full size."""


@dataclass(frozen=True, slots=True)
class _RankResult:
    """The result of one rank's batch of a round; empty where it has no batch left."""

    predictions: list[Prediction] = field(default_factory=list)
    cells: list[Captioned] = field(default_factory=list)
    num_images: int = 0


class Predictor:
    """Predicts the images of `feed`. Of P ranks each takes every P-th batch, and they gather after every round.

    `cells`: the first images as the network saw them, with captions. `num_done`: images, unreadable ones included.
    Both are the same on every rank.
    """

    def __init__(self, classifier: Classifier, feed: ImageFeed, num_best: int, flips: bool, num_cells: int) -> None:
        """`num_best`: classes to name for each image. `num_cells`: the least number of `cells` to keep."""
        self.comm = feed.strategy.comm
        self.cells: list[Captioned] = []
        self.num_done = 0
        self.num_images = feed.loader.reader.num_images
        self._classifier = classifier
        self._feed = feed
        self._num_best = num_best
        self._flips = flips
        self._num_cells = num_cells

    def rounds(self) -> Iterator[list[Prediction]]:
        """The predictions of each round for the images that can be read, in order, on every rank."""
        world, starts = self.comm.world, range(0, self.num_images, BATCH)
        mine = starts[world.rank :: world.size]
        work = ((0, np.arange(start, min(start + BATCH, self.num_images))) for start in mine)
        batches = iter(self._feed.batches(work))
        for _ in range(0, len(starts), world.size):
            results = self.comm.all_gather_object(self._predict(next(batches, None)))
            for result in results:
                self.cells += result.cells
                self.num_done += result.num_images
            yield [prediction for result in results for prediction in result.predictions]

    def _predict(self, examples: Examples | None) -> _RankResult:
        if examples is None:
            return _RankResult()
        probs_BK = predict_batch(self._classifier, examples.inputs[0], self._flips)
        predictions = self._name_best(probs_BK, examples)
        cells = list(self._draw(predictions, examples)) if len(self.cells) < self._num_cells else []
        return _RankResult(predictions, cells, len(examples.ids_B))

    def _name_best(self, probs_BK: Tensor, examples: Examples) -> list[Prediction]:
        classes, name_of = self._classifier.classes, self._feed.loader.reader.name_of
        probs_BT, top_BT = (values.tolist() for values in probs_BK.topk(self._num_best, dim=1))
        rows = torch.nonzero(examples.weights_B)[:, 0].tolist()
        labels = examples.labels_B.tolist()
        return [
            Prediction(
                name_of(int(examples.ids_B[row])),
                tuple((classes[k], prob) for k, prob in zip(top_BT[row], probs_BT[row], strict=True)),
                None if labels[row] == UNKNOWN else classes[labels[row]],
            )
            for row in rows
        ]

    def _draw(self, predictions: list[Prediction], examples: Examples) -> Iterator[Captioned]:
        augment = self._classifier.augment
        assert examples.images_BCHW is not None
        seen_BCHW = examples.images_BCHW[examples.weights_B > 0]
        for prediction, pixels in zip(predictions, to_pixels(seen_BCHW, augment.mean, augment.std), strict=True):
            name, probability = prediction.best[0]
            truth = "" if prediction.truth is None else f" ({prediction.truth})"
            yield f"{name}: {probability:.0%}{truth}", pixels


@torch.inference_mode()
def predict_batch(classifier: Classifier, images_BCHW: Tensor, flips: bool) -> Tensor:
    """probs_BK on the CPU; with `flips` the mean over the images and their mirror images."""
    names: tuple[TransformName, ...] = ("none", "hflip") if flips else ("none",)
    with classifier.strategy.autocast():
        outputs = [classifier.model(TEST_TRANSFORMS[name](images_BCHW)) for name in names]
    return torch.stack([class_scores(each_BO).float().softmax(1) for each_BO in outputs]).mean(0).cpu()
