"""The options of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainOptions:
    debug: bool = False
    """Train on a few batches in one CPU process, with every check on and without W&B."""
    fresh: bool = False
    """Start a new run even where an unfinished run of this recipe exists."""
    allow_change: tuple[str, ...] = ()
    """Resume although this key of the recipe has changed; may be given several times."""
