"""Unreadable images of all ranks: each reported once, too many of them an error."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.data.bad_samples import SkipBadSamples
from launcher.distributed.comm import Comm
from launcher.distributed.world import World
from launcher.errors import DataError
from launcher.train.skipped_samples import SkippedSamples
from tests.harness.recorded_log import RecordedLog


class TwoRanks(Comm):
    """This rank, and another whose values the test gives."""

    def __init__(self) -> None:
        super().__init__(World())
        self.other: Any = None

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value, self.other or {split: {} for split in value}] if isinstance(value, dict) else [value]


def skipped_samples(limit: int = 100) -> tuple[SkippedSamples, SkipBadSamples]:
    policy = SkipBadSamples(100)
    policies = {"train": policy, "valid": SkipBadSamples(100)}
    shard_of = {split: lambda i: f"{i // 10}.tar" for split in policies}
    return SkippedSamples(policies, shard_of, limit), policy


def test_an_image_is_reported_once_whoever_meets_it_and_how_often() -> None:
    skipped, policy = skipped_samples()
    comm, log = TwoRanks(), RecordedLog()
    policy.note(3, DataError("0.tar: image 3: broken"))
    comm.other = {"train": {3: "0.tar: image 3: broken", 12: "1.tar: image 2: empty"}, "valid": {}}
    skipped.record(comm, log, 5)
    comm.other = {"train": {12: "1.tar: image 2: empty"}, "valid": {}}
    skipped.record(comm, log, 6)
    [event] = log.events("skipped_samples")
    assert event["message"] == "skipped 2 unreadable images of train: 0.tar: image 3: broken, and 1 more"
    assert (event["step"], event["split"], event["shards"]) == (5, "train", {"0.tar": 1, "1.tar": 1})
    assert skipped.counts() == {"train": 2}


def test_one_more_than_allowed_is_an_error() -> None:
    skipped, policy = skipped_samples(limit=1)
    comm, log = TwoRanks(), RecordedLog()
    policy.note(3, DataError("0.tar: image 3: broken"))
    skipped.record(comm, log, 5)
    policy.note(4, DataError("0.tar: image 4: broken"))
    what = "2 images of train cannot be read, data.max_skipped allows 1: 0.tar: image 3: broken"
    with pytest.raises(DataError, match=what):
        skipped.record(comm, log, 6)
    assert len(log.events("skipped_samples")) == 2, "what ends the run is in its journal"


def test_nothing_is_exchanged_where_the_first_unreadable_image_fails() -> None:
    skipped = SkippedSamples({}, {}, 0)
    skipped.record(None, RecordedLog(), 1)  # type: ignore[arg-type]
    assert skipped.counts() == {}
