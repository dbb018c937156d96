"""Predictions for all images, computed by all ranks together.

B batch, C channels, H x W pixels, K classes, T the most probable classes of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from launcher.commands.model.infer import TEST_TRANSFORMS, Probabilities
from launcher.commands.model.options import TransformName
from launcher.commands.model.predict.classifier import Classifier
from launcher.commands.model.predict.output import Prediction
from launcher.data.feed import Examples, ImageFeed
from launcher.data.image_files import UNKNOWN
from launcher.metrics.names import show_metric
from launcher.run.image_grid import Captioned, to_pixels
from launcher.text import show_count

BATCH = 32
"""Images per forward pass. Small, because with a GPU all of them are in memory at their full size."""


@dataclass
class Predictor:
    """Predicts the images of `feed`. Of P ranks each takes every P-th batch, and they gather after every round."""

    classifier: Classifier
    feed: ImageFeed
    num_best: int
    """Classes to name for each image."""
    flips: bool
    num_cells: int
    """The least number of `cells` to keep."""
    cells: list[Captioned] = field(default_factory=list)
    """The first images as the network saw them, with captions. The same on every rank."""
    num_done: int = 0
    """Images, unreadable ones included. This and the next are the same on every rank."""
    num_predicted: int = 0
    num_known: int = 0
    """Predicted images whose class is known."""
    num_right: int = 0

    def rounds(self) -> Iterator[list[Prediction]]:
        """The predictions of each round for the images that can be read, in order, on every rank."""
        comm, num_images = self.feed.strategy.comm, self.feed.loader.reader.num_images
        starts = range(0, num_images, BATCH)
        mine = starts[comm.world.rank :: comm.world.size]
        work = ((0, np.arange(start, min(start + BATCH, num_images))) for start in mine)
        batches = iter(self.feed.batches(work))
        for _ in range(0, len(starts), comm.world.size):
            examples = next(batches, None)
            results = comm.all_gather_object(([], []) if examples is None else self._predict(examples))
            self.num_done = min(self.num_done + comm.world.size * BATCH, num_images)
            self.cells += [cell for _, cells in results for cell in cells]
            predictions = [prediction for each, _ in results for prediction in each]
            self.num_predicted += len(predictions)
            self.num_known += sum(prediction.truth is not None for prediction in predictions)
            self.num_right += sum(prediction.is_right for prediction in predictions)
            yield predictions

    def describe(self) -> str:
        """`12 images, accuracy 75.00% on the 8 of a known class`."""
        images = show_count(self.num_predicted, "image")
        if not self.num_known:
            return images
        accuracy = show_metric("accuracy", self.num_right / self.num_known)
        return f"{images}, {accuracy} on the {self.num_known:,} of a known class"

    def _predict(self, examples: Examples) -> tuple[list[Prediction], list[Captioned]]:
        """The predictions and cells of one rank's batch."""
        probs_BK = predict_batch(self.classifier, examples.inputs[0], self.flips)
        predictions = self._name_best(probs_BK, examples)
        cells = list(self._draw(predictions, examples)) if len(self.cells) < self.num_cells else []
        return predictions, cells

    def _name_best(self, probs_BK: Tensor, examples: Examples) -> list[Prediction]:
        classes, name_of = self.classifier.classes, self.feed.loader.reader.name_of
        probs_BT, top_BT = (values.tolist() for values in probs_BK.topk(self.num_best, dim=1))
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
        augment = self.feed.augment
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
    network = Probabilities(classifier.model)
    with classifier.strategy.autocast():
        return torch.stack([network(TEST_TRANSFORMS[name](images_BCHW)) for name in names]).mean(0).cpu()
