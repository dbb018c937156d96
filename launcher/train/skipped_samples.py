"""The images that a training had to do without: told once each, and too many end the run on every process at once."""

from __future__ import annotations

from collections import Counter

from launcher.errors import DataError
from launcher.train.context import Training


def record_left_out(t: Training, step: int) -> None:
    """Write down what some process could not read since the last call. Called by every process.

    Raise DataError on all of them when a split has more such images than data.max_left_out.
    """
    if t.recipe.data.on_error == "fail":
        return
    for split, loader in t.loaders.items():
        known = t.left_out.setdefault(split, {})
        told = {i: message for each in t.strategy.gather(loader.damage.take_new()) for i, message in each.items()}
        new = {i: told[i] for i in sorted(told.keys() - known.keys())}
        known |= new
        if new:
            _write(t, step, split, new, Counter(map(loader.reader.shard_of, new)))
        if len(known) > (limit := t.recipe.data.max_left_out):
            first = next(iter(known.values()))
            raise DataError(f"{len(known)} images of {split} cannot be read, data.max_left_out allows {limit}: {first}")


def _write(t: Training, step: int, split: str, new: dict[int, str], shards: Counter[str]) -> None:
    messages = list(new.values())
    epoch = t.plan.epoch(step) + 1
    t.journal.write("event", step, epoch, name="left_out", split=split, shards=dict(shards), messages=messages)
    more = f", and {len(messages) - 1} more" if len(messages) > 1 else ""
    t.console.say(f"left out of {split}: {messages[0]}{more}")
