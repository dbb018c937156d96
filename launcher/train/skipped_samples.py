"""Images that cannot be read: counted over all ranks, recorded, and limited by data.max_skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from launcher.data.bad_samples import BadSamples
from launcher.distributed.comm import Comm
from launcher.errors import DataError
from launcher.run.run_log import RunLog
from launcher.text import show_count


class SkippedSamples:
    """The unreadable images of each split, on all ranks, since this process started."""

    def __init__(
        self, policies: Mapping[str, BadSamples], shard_of: Mapping[str, Callable[[int], str]], limit: int
    ) -> None:
        """`policies`: by split, this rank's; empty where the first bad image fails. `limit`: images of a split."""
        self._policies = policies
        self._shard_of = shard_of
        self._limit = limit
        self._reasons: dict[str, dict[int, str]] = {split: {} for split in policies}

    def counts(self) -> dict[str, int]:
        """Images of each split that has any."""
        return {split: len(reasons) for split, reasons in self._reasons.items() if reasons}

    def record(self, comm: Comm, log: RunLog, step: int) -> None:
        """Log what some rank could not read since the last call. Called by every rank.

        Raise DataError on all of them when a split has more such images than data.max_skipped.
        """
        if not self._policies:
            return
        mine = {split: policy.take_new() for split, policy in self._policies.items()}
        ranks = comm.all_gather_object(mine)
        for split, known in self._reasons.items():
            new = {i: reason for each in ranks for i, reason in sorted(each[split].items()) if i not in known}
            known |= new
            if new:
                shards = Counter(map(self._shard_of[split], new))
                messages = list(new.values())
                more = f", and {len(messages) - 1} more" if len(messages) > 1 else ""
                message = f"skipped {show_count(len(messages), 'unreadable image')} of {split}: {messages[0]}{more}"
                log.event(step, "skipped_samples", message, show=True, split=split, shards=shards, messages=messages)
            if len(known) > self._limit:
                first = next(iter(known.values()))
                what = f"{len(known)} images of {split} cannot be read, data.max_skipped allows {self._limit}"
                raise DataError(f"{what}: {first}")
