"""Readers that misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from launcher.data.ids import Ids, Work
from launcher.data.reader import Sample, SampleReader


@dataclass
class ChangedReader:
    """A `SampleReader` that reads from `inner` and passes each sample through `change`, with its id."""

    inner: SampleReader
    change: Callable[[int, Sample], Sample]

    @property
    def num_images(self) -> int:
        return self.inner.num_images

    def read(self, sample_id: int) -> Sample:
        return self.change(sample_id, self.inner.read(sample_id))

    def name_of(self, sample_id: int) -> str:
        return self.inner.name_of(sample_id)

    def look_ahead(self, work: Work) -> Iterator[tuple[int, Ids]]:
        return self.inner.look_ahead(work)

    def current(self) -> str | None:
        return self.inner.current()
