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

from launcher.augment.images import Source
from launcher.augment.mix import Mix
from launcher.augment.parameter_hash import Hashes, NoWitness, Witness
from launcher.augment.pipeline import Augment
from launcher.data.bad_samples import Damage
from launcher.data.encoded import Times
from launcher.data.features.format import LEFT_OUT, Features
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
    `drawn_BD`: a hash of what augmentation and mixing did to each; no bytes where nobody asks, or features were read.
    """

    inputs: tuple[Tensor, ...]
    labels_B: Tensor
    targets: Tensor
    weights_B: Tensor
    ids_B: Ids
    images_BCHW: Tensor | None
    drawn_BD: Hashes


class Feed(Protocol):
    """The examples of one split."""

    @property
    def times(self) -> Times:
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
    witness: Callable[[], Witness] = NoWitness
    """Makes what remembers what was done to each image."""

    @property
    def times(self) -> Times:
        return self.loader.times

    def batches(self, work: Work) -> Iterator[Examples]:
        """Raise DataError when an image cannot be read or decoded."""
        augmented, mixed = self.witness(), self.witness()
        augment = replace(self.augment, tell=augmented.tell)
        mix = None if self.mix is None else replace(self.mix, tell=mixed.tell)

        def prepare(images: Source, ids_B: Ids, view: int) -> Tensor:
            return self.strategy.layout(augment(images, ids_B, self.seed, view))

        views = ((epoch if self.views is None else epoch % self.views, ids_B) for epoch, ids_B in work)
        for batch in self.loader.batches(views, prepare):
            images_BCHW, targets = batch.images_BChw, batch.labels_B
            if mix is not None:
                mixed_BCHW, targets = mix(images_BCHW, targets, batch.ids_B, self.seed, batch.view)
                images_BCHW = self.strategy.layout(mixed_BCHW)
            inputs = (images_BCHW,) if self.engine is None else self.engine(images_BCHW)
            drawn_BD = np.hstack([each.take(batch.ids_B, batch.view) for each in (augmented, mixed)])
            yield Examples(inputs, batch.labels_B, targets, batch.weights_B, batch.ids_B, images_BCHW, drawn_BD)


@dataclass
class FeatureFeed:
    """Reads what the frozen part gives for each view of each image.

    `views`: of `num_views` in all, those that the epochs to come use.
    """

    views: dict[int, Features]
    num_views: int
    device: torch.device
    damage: Damage = field(default_factory=Damage)
    times: Times = field(default_factory=Times)

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
        for i in ids_B[(labels_B == LEFT_OUT) & (ids_B >= 0)].tolist():
            self.damage.note(i, DataError(f"{features.folder}: image {i} was left out when this was computed"))
        weights = torch.from_numpy(((ids_B >= 0) & (labels_B != LEFT_OUT)).astype("int64"))
        labels = self._send(torch.from_numpy(np.maximum(labels_B, 0)))
        drawn_BD = NoWitness().take(ids_B, 0)
        return Examples(tuple(map(self._send, inputs)), labels, labels, self._send(weights), ids_B, None, drawn_BD)

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)
