"""Ids -> the inputs of the part of the network that trains: from images, or from features computed before.

B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from launcher.augment.execute import Augment
from launcher.augment.groups import send
from launcher.augment.images import ImageBatch
from launcher.augment.mix import Mix
from launcher.augment.parameter_hash import HashRecorder, NullParameterHashes, ParamHashes
from launcher.data.bad_samples import BadSamples, FailOnBadSample
from launcher.data.encoded import InputTimes
from launcher.data.features.format import SKIPPED, Features
from launcher.data.ids import Ids, Work
from launcher.data.loader import Loader
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError
from launcher.models.frozen.engine import Engine


@dataclass(frozen=True, slots=True)
class Examples:
    """A batch on the device, for the part of the network that trains."""

    inputs: tuple[Tensor, ...]
    """images_BCHW, or the values at the boundary of the frozen part."""
    labels_B: Tensor
    targets: Tensor
    """Targets of the loss: labels_B, or where images are mixed the share of every class, targets_BK."""
    weights_B: Tensor
    """1 counts, 0 is padding or skipped."""
    ids_B: Ids
    images_BCHW: Tensor | None
    """As augmented and mixed; None where features were read."""
    param_hashes_BD: ParamHashes
    """Hashes of the augmentation and mixing of each image; no bytes where none are recorded, or features were read."""


@dataclass(frozen=True)
class ImageFeed:
    """The examples of one split, from images: read, augmented, mixed, and passed through the frozen part, if any."""

    loader: Loader
    augment: Augment
    strategy: Strategy
    seed: int
    num_views: int | None
    """Augmented views of each image, used in turn by the epochs; None: a new one every epoch."""
    engine: Engine | None
    """The frozen part; None where there is none."""
    mix: Mix | None = None
    parameter_hashes: Callable[[], HashRecorder] = NullParameterHashes

    @property
    def times(self) -> InputTimes:
        """Time spent on its examples so far."""
        return self.loader.times

    def batches(self, work: Work) -> Iterator[Examples]:
        """Raise DataError when an image cannot be read and the policy is to fail."""
        augmented, mixed = self.parameter_hashes(), self.parameter_hashes()
        augment = replace(self.augment, hashes=augmented)
        mix = None if self.mix is None else replace(self.mix, hashes=mixed)

        def augment_batch(images: ImageBatch, ids_B: Ids, view: int) -> Tensor:
            return self.strategy.layout(augment(images, ids_B, self.seed, view))

        views = ((epoch if self.num_views is None else epoch % self.num_views, ids_B) for epoch, ids_B in work)
        for batch in self.loader.batches(views, augment_batch):
            images_BCHW, targets = batch.images_BChw, batch.labels_B
            if mix is not None:
                mixed_BCHW, targets = mix(images_BCHW, targets, batch.ids_B, self.seed, batch.view)
                images_BCHW = self.strategy.layout(mixed_BCHW)
            inputs = (images_BCHW,) if self.engine is None else self.engine(images_BCHW)
            param_hashes_BD = np.hstack([each.take(batch.ids_B, batch.view) for each in (augmented, mixed)])
            yield Examples(inputs, batch.labels_B, targets, batch.weights_B, batch.ids_B, images_BCHW, param_hashes_BD)


@dataclass
class FeatureFeed:
    """The examples of one split, from features: the values that the frozen part gave for each view of each image.

    `by_view`: those that the coming epochs use, of `num_views` views in all. Nothing is mixed: features of mixed images
    are not kept.
    """

    by_view: dict[int, Features]
    num_views: int
    device: torch.device
    bad_samples: BadSamples = field(default_factory=FailOnBadSample)
    times: InputTimes = field(default_factory=InputTimes)

    def batches(self, work: Work) -> Iterator[Examples]:
        for epoch, ids_B in work:
            start = time.perf_counter()
            examples = self._read(self.by_view[epoch % self.num_views], ids_B)
            self.times.wait_s += time.perf_counter() - start
            yield examples

    def _read(self, features: Features, ids_B: Ids) -> Examples:
        records, labels_B = features.read(ids_B)
        inputs = tuple(
            torch.from_numpy(bytes_BN.copy()).view(getattr(torch, value.dtype)).view(len(ids_B), *value.shape)
            for bytes_BN, value in zip(records, features.layout.values, strict=True)
        )
        for i in ids_B[(labels_B == SKIPPED) & (ids_B >= 0)].tolist():
            self.bad_samples.note(
                i, DataError(f"{features.folder}: image {i} was skipped when these features were computed")
            )
        weights = torch.from_numpy(((ids_B >= 0) & (labels_B != SKIPPED)).astype("int64"))
        labels = self._send(torch.from_numpy(np.maximum(labels_B, 0)))
        param_hashes_BD = NullParameterHashes().take(ids_B, 0)
        return Examples(
            tuple(map(self._send, inputs)), labels, labels, self._send(weights), ids_B, None, param_hashes_BD
        )

    def _send(self, tensor: Tensor) -> Tensor:
        return send(tensor, self.device)


Feed = ImageFeed | FeatureFeed
