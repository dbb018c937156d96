"""Ids -> what the trained part of the network takes: from the pictures, or from features computed before.

B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from launcher.augment.images import ImageBatch
from launcher.augment.mix import Mix
from launcher.augment.parameter_hash import NullParameterHashes, ParameterHashes, ParamHashes
from launcher.augment.pipeline import Augment
from launcher.data.bad_samples import BadSamples, FailOnBadSample
from launcher.data.encoded import InputTimes
from launcher.data.features.format import SKIPPED, Features
from launcher.data.loader import Loader
from launcher.data.order import Ids
from launcher.data.reader import Work
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError
from launcher.models.frozen.engine import Engine


@dataclass(frozen=True, slots=True)
class Examples:
    """A batch on the device. `inputs`: images_BCHW, or the values at the boundary of a frozen part.

    `targets`: what the loss compares the outputs with: labels_B, or where images are mixed the share of every class,
    targets_BK. `weights_B`: 1 counts, 0 is padding. `images_BCHW`: as augmented; None where features were read.
    `param_hashes_BD`: a hash of what augmentation and mixing did to each; no bytes where nobody asks, or features were
    read.
    """

    inputs: tuple[Tensor, ...]
    labels_B: Tensor
    targets: Tensor
    weights_B: Tensor
    ids_B: Ids
    images_BCHW: Tensor | None
    param_hashes_BD: ParamHashes


class Feed(Protocol):
    """The examples of one split."""

    @property
    def times(self) -> InputTimes:
        """What its examples cost so far; it goes on counting."""

    def batches(self, work: Work) -> Iterator[Examples]: ...


@dataclass(frozen=True)
class ImageFeed:
    """Reads, augments, and where a part of the network is frozen, sends the images through it."""

    loader: Loader
    augment: Augment
    strategy: Strategy
    seed: int
    views: int | None
    """Augmented views of each image, used in turn by the epochs; None: a new one every epoch."""
    engine: Engine | None
    mix: Mix | None = None
    """Mixes the images after augmentation, and their labels."""
    parameter_hashes: Callable[[], ParameterHashes] = NullParameterHashes
    """Makes the recorder of what was done to each image."""

    @property
    def times(self) -> InputTimes:
        return self.loader.times

    def batches(self, work: Work) -> Iterator[Examples]:
        """Raise DataError when an image cannot be read or decoded."""
        augmented, mixed = self.parameter_hashes(), self.parameter_hashes()
        augment = replace(self.augment, record=augmented.record)
        mix = None if self.mix is None else replace(self.mix, record=mixed.record)

        def prepare(images: ImageBatch, ids_B: Ids, view: int) -> Tensor:
            return self.strategy.layout(augment(images, ids_B, self.seed, view))

        views = ((epoch if self.views is None else epoch % self.views, ids_B) for epoch, ids_B in work)
        for batch in self.loader.batches(views, prepare):
            images_BCHW, targets = batch.images_BChw, batch.labels_B
            if mix is not None:
                mixed_BCHW, targets = mix(images_BCHW, targets, batch.ids_B, self.seed, batch.view)
                images_BCHW = self.strategy.layout(mixed_BCHW)
            inputs = (images_BCHW,) if self.engine is None else self.engine(images_BCHW)
            param_hashes_BD = np.hstack([each.take(batch.ids_B, batch.view) for each in (augmented, mixed)])
            yield Examples(inputs, batch.labels_B, targets, batch.weights_B, batch.ids_B, images_BCHW, param_hashes_BD)


@dataclass
class FeatureFeed:
    """Reads what the frozen part gives for each view of each image.

    `views`: of `num_views` in all, those that the epochs to come use.
    """

    views: dict[int, Features]
    num_views: int
    device: torch.device
    bad_samples: BadSamples = field(default_factory=FailOnBadSample)
    times: InputTimes = field(default_factory=InputTimes)

    def batches(self, work: Work) -> Iterator[Examples]:
        for epoch, ids_B in work:
            start = time.perf_counter()
            examples = self._read(self.views[epoch % self.num_views], ids_B)
            self.times.wait_s += time.perf_counter() - start
            yield examples

    def _read(self, features: Features, ids_B: Ids) -> Examples:
        records, labels_B = features.read(ids_B)
        inputs = tuple(
            torch.from_numpy(bytes_BN.copy()).view(getattr(torch, value.dtype)).view(len(ids_B), *value.shape)
            for bytes_BN, value in zip(records, features.layout.values, strict=True)
        )
        for i in ids_B[(labels_B == SKIPPED) & (ids_B >= 0)].tolist():
            self.bad_samples.note(i, DataError(f"{features.folder}: image {i} was left out when this was computed"))
        weights = torch.from_numpy(((ids_B >= 0) & (labels_B != SKIPPED)).astype("int64"))
        labels = self._send(torch.from_numpy(np.maximum(labels_B, 0)))
        param_hashes_BD = NullParameterHashes().take(ids_B, 0)
        return Examples(
            tuple(map(self._send, inputs)), labels, labels, self._send(weights), ids_B, None, param_hashes_BD
        )

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)
