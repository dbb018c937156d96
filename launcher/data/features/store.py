"""Features: what a frozen part gives for each picture, computed once over all processes, and read ever after."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher.data.features.format import (
    LEFT_OUT,
    ROOT,
    DtypeName,
    Features,
    Layout,
    Records,
    Value,
    commit_features,
    key_of,
    open_features,
    part_bounds,
    show_bytes,
    write_part,
)
from launcher.data.feed import FeatureFeed, Feed, ImageFeed
from launcher.data.order import portion_ids
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError, Stopped
from launcher.models.frozen.split import Cut, plain_name

Say = Callable[[str], None]

NAMES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@dataclass(frozen=True)
class Source:
    """One split. `transform`: what its images go through, as plain data; `values`: what comes out for one of them.

    `views`: of `num_views` in all, those that the run needs.
    """

    split: str
    feed: ImageFeed
    transform: dict[str, Any]
    is_random: bool
    num_images: int
    values: tuple[Value, ...]
    views: tuple[int, ...] = (0,)
    num_views: int = 1

    @property
    def num_records(self) -> int:
        return self.num_images * len(self.views)


def prefix_sha256(cut: Cut) -> str:
    """Hash of what the frozen part computes: its graph and every tensor in it."""
    digest = hashlib.sha256(cut.text.encode())
    for name, tensor in cut.prefix.state_dict().items():
        digest.update(plain_name(name).encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class FeatureStore:
    """Where features are kept, and what all of this run's have in common.

    `run_id`: in the name of what is not whole yet, so that the same run clears it away. `room_bytes`: for all it keeps.
    """

    strategy: Strategy
    eval_batch: int
    facts: dict[str, Any]
    run_id: str
    room_bytes: float
    should_stop: Callable[[], bool]
    say: Say
    root: Path = ROOT

    def choose(self, sources: list[Source]) -> list[Source]:
        """Those that there is room for, the smallest first."""
        room, chosen = self.room_bytes, []
        for source in sorted(sources, key=lambda source: source.num_records):
            num_bytes = Layout(source.values, source.num_records, 1).num_bytes
            if num_bytes <= room:
                room -= num_bytes
                chosen.append(source)
            else:
                limit = f"strategy.feature_cache_gib, {self.room_bytes / 2**30:g}"
                self.say(f"features of {source.split}: not kept, {show_bytes(num_bytes)} are over {limit}")
        return chosen

    def count_missing(self, source: Source) -> int:
        """Images whose features are still to be computed, all views together. Asked of rank 0 alone."""
        return self.strategy.on_first(
            lambda: sum(
                source.num_images for view in source.views if open_features(self.root, self._key(source, view)) is None
            )
        )

    def open(self, source: Source) -> Feed:
        """A feed that reads them. Computes what is missing; called by every process."""
        views = {view: self._open_or_compute(source, view) for view in source.views}
        return FeatureFeed(views, source.num_views, self.strategy.device, source.feed.loader.damage)

    def _facts_of(self, source: Source, view: int) -> dict[str, Any]:
        drawn = {"seed": source.feed.seed, "view": view} if source.is_random else None
        return {**self.facts, "split": source.split, "transform": source.transform, "drawn": drawn}

    def _key(self, source: Source, view: int) -> str:
        return key_of(self._facts_of(source, view))

    def _open_or_compute(self, source: Source, view: int) -> Features:
        key = self._key(source, view)
        # Asked of rank 0 alone, so that all read or all compute.
        if self.strategy.on_first(lambda: open_features(self.root, key) is not None):
            self.say(f"features of {source.split}: read from {self.root / key}")
        else:
            self._compute(source, view, key)
        features = open_features(self.root, key)
        if features is None:
            raise DataError(f"{self.root / key}: not seen by every process; put it on a disk that all nodes share")
        return features

    def _compute(self, source: Source, view: int, key: str) -> None:
        strategy, world = self.strategy, self.strategy.world
        temporary = strategy.on_first(lambda: self._make_temporary(key))
        layout = Layout(source.values, source.num_images, world.size)
        which = f", view {view + 1}" if source.is_random else ""
        self.say(f"features of {source.split}: computing {source.num_images:,} images{which}")
        try:
            self._write_part(source, view, temporary, layout)
            strategy.gather(None)
            strategy.pulse.enter("prepare")
            strategy.on_first(lambda: self._commit(source, view, temporary, layout))
        finally:
            if world.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
        self.say(f"features of {source.split}: {show_bytes(layout.num_bytes)} in {self.root / key}")

    def _write_part(self, source: Source, view: int, temporary: Path, layout: Layout) -> None:
        world = self.strategy.world
        ids = portion_ids(source.num_images, world.size, self.eval_batch, world.rank)
        with _explained(temporary):
            num_bytes = write_part(temporary, world.rank, self._records(source.feed, view, ids))
        first, end = part_bounds(source.num_images, world.size)[world.rank : world.rank + 2]
        assert num_bytes == (end - first) * layout.record_bytes

    def _commit(self, source: Source, view: int, temporary: Path, layout: Layout) -> None:
        with _explained(temporary):
            commit_features(temporary, self.root, self._key(source, view), self._facts_of(source, view), layout)

    def _records(self, feed: ImageFeed, view: int, ids: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Records]:
        for examples in feed.batches((view, ids_B) for ids_B in ids):
            self.strategy.pulse.enter("features")
            if self.strategy.any_process(self.should_stop()):
                raise Stopped("stopped while computing features; the same command computes them anew")
            # Of an image that is left out, these are the features of another: its label says so.
            labels_B = torch.where(examples.weights_B > 0, examples.labels_B, LEFT_OUT)
            columns = [*map(_bytes_of, examples.inputs), _bytes_of(labels_B[:, None])]
            yield np.concatenate(columns, axis=1)[examples.ids_B >= 0]

    def _make_temporary(self, key: str) -> Path:
        temporary = self.root / f".{key}-{self.run_id}"
        with _explained(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        return temporary


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """A full disk, or one that not every process sees, is one line."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise DataError(f"{folder}: {reason}; see to the folder, or set strategy.feature_cache_gib=0") from None


def values_of(inputs: tuple[Tensor, ...]) -> tuple[Value, ...]:
    return tuple(Value(NAMES[value.dtype], tuple(value.shape[1:])) for value in inputs)


def _bytes_of(values: Tensor) -> Records:
    flat = values.detach().contiguous().cpu().flatten(1)
    return flat.view(torch.uint8).numpy()
