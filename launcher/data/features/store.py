"""Features of each image, computed once by all ranks and read from then on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher.data.features.format import (
    ROOT,
    SKIPPED,
    DtypeName,
    Features,
    Layout,
    Records,
    Value,
    commit_features,
    key_of,
    open_features,
    write_part,
)
from launcher.data.feed import FeatureFeed, ImageFeed
from launcher.data.ids import Ids, portion_ids
from launcher.distributed.comm import Comm
from launcher.errors import DataError, Stopped
from launcher.models.frozen.split import FrozenSplit, plain_name
from launcher.text import Say, show_bytes

DTYPE_NAMES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@dataclass(frozen=True)
class FeatureRequest:
    """The features of one split that a run needs."""

    split: str
    feed: ImageFeed
    """Passes the images through the frozen part."""
    transform: dict[str, Any]
    """Operations on its images, and their normalization, as plain data."""
    is_random: bool
    num_images: int
    values: tuple[Value, ...]
    """Values at the boundary, for one image."""
    views: tuple[int, ...] = (0,)
    """Views that the run needs, of `num_views` in all."""
    num_views: int = 1


def frozen_part_sha256(split: FrozenSplit) -> str:
    """Hash of the frozen part's graph and of every tensor in it."""
    digest = hashlib.sha256(split.text.encode())
    for name, tensor in split.frozen.state_dict().items():
        digest.update(plain_name(name).encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class FeatureStore:
    """The features of a run, in folders below `root`. Called by every rank."""

    comm: Comm
    device: torch.device
    eval_batch: int
    metadata: dict[str, Any]
    """Everything that the values of all splits depend on."""
    run_id: str
    """Part of the names of incomplete folders, so that the same run removes them."""
    say: Say
    root: Path = ROOT

    def count_missing(self, request: FeatureRequest) -> int:
        """Images whose features are still to be computed, all views together, as rank 0 finds them."""
        keys = [key_of(self._metadata_of(request, view)) for view in request.views]
        num_views = self.comm.run_on_rank0(lambda: sum(open_features(self.root, key) is None for key in keys))
        return num_views * request.num_images

    def open(self, request: FeatureRequest) -> FeatureFeed:
        """A feed of these features; computes those that are missing."""
        views = {view: self._open_or_compute(request, view) for view in request.views}
        return FeatureFeed(views, request.num_views, self.device, request.feed.loader.bad_samples)

    def _metadata_of(self, request: FeatureRequest, view: int) -> dict[str, Any]:
        drawn = {"seed": request.feed.seed, "view": view} if request.is_random else None
        return {**self.metadata, "split": request.split, "transform": request.transform, "drawn": drawn}

    def _open_or_compute(self, request: FeatureRequest, view: int) -> Features:
        key = key_of(self._metadata_of(request, view))
        # Rank 0 decides, so that all ranks read or all compute.
        if self.comm.run_on_rank0(lambda: open_features(self.root, key) is not None):
            self.say(f"features of {request.split}: read from {self.root / key}")
        else:
            self._compute(request, view, key)
        features = open_features(self.root, key)
        if features is None:
            raise DataError(f"{self.root / key}: not visible to every rank; put it on a disk that all nodes share")
        return features

    def _compute(self, request: FeatureRequest, view: int, key: str) -> None:
        comm, world = self.comm, self.comm.world
        temporary = comm.run_on_rank0(lambda: self._make_temporary(key))
        layout = Layout(request.values, request.num_images, world.size)
        which = f", view {view + 1}" if request.is_random else ""
        self.say(f"features of {request.split}: computing {request.num_images:,} images{which}")
        try:
            ids = portion_ids(layout.num_images, world.size, self.eval_batch, world.rank)
            with _as_data_error(temporary):
                num_bytes = write_part(temporary, world.rank, self._records(request.feed, view, ids))
            first, end = layout.bounds[world.rank : world.rank + 2]
            assert num_bytes == (end - first) * layout.record_bytes
            comm.barrier()
            comm.beacon.enter("prepare")
            comm.run_on_rank0(lambda: self._commit(request, view, temporary, layout))
        finally:
            if world.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
        self.say(f"features of {request.split}: {show_bytes(layout.num_bytes)} in {self.root / key}")

    def _commit(self, request: FeatureRequest, view: int, temporary: Path, layout: Layout) -> None:
        metadata = self._metadata_of(request, view)
        with _as_data_error(temporary):
            commit_features(temporary, self.root, key_of(metadata), metadata, layout)

    def _records(self, feed: ImageFeed, view: int, ids: Ids) -> Iterator[Records]:
        for examples in feed.batches((view, ids_B) for ids_B in ids):
            self.comm.beacon.enter("features")
            if self.comm.agree_to_stop():
                raise Stopped("stopped while computing features; the same command computes them again")
            # A skipped image has the features of another one: its label marks it.
            labels_B = torch.where(examples.weights_B > 0, examples.labels_B, SKIPPED)
            columns = [*map(_bytes_of, examples.inputs), _bytes_of(labels_B[:, None])]
            yield np.concatenate(columns, axis=1)[examples.ids_B >= 0]

    def _make_temporary(self, key: str) -> Path:
        temporary = self.root / f".{key}-{self.run_id}"
        with _as_data_error(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        return temporary


@contextmanager
def _as_data_error(folder: Path) -> Iterator[None]:
    """Raise DataError, one line, for a full disk or one that is not visible to every rank."""
    try:
        yield
    except OSError as error:
        advice = "free space, check permissions, or set strategy.feature_cache_gib=0"
        raise DataError(f"{folder}: cannot be written ({error.strerror}); {advice}") from None


def values_of(inputs: tuple[Tensor, ...]) -> tuple[Value, ...]:
    return tuple(Value(DTYPE_NAMES[value.dtype], tuple(value.shape[1:])) for value in inputs)


def _bytes_of(values: Tensor) -> Records:
    return values.detach().contiguous().cpu().flatten(1).view(torch.uint8).numpy()
