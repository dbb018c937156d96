"""The input of each split of a stage: its images, or their features from the frozen part. Pure; needs no torch.

The frozen part of a network gives the same for an image whenever nothing random comes before its end. It then runs once
for an image and view, not once an epoch: what it gives, the features, is kept on disk where there is room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from launcher.recipe.augment import Augment
from launcher.recipe.facts import is_random
from launcher.recipe.plan import Plan
from launcher.text import show_bytes


@dataclass(frozen=True, slots=True)
class SplitInput:
    """`num_images`: images of the split that pass through the network in the stage, repetitions included.

    `views`: augmented views whose features are kept; None: the split is read from its images. `note`: why, where that
    is a choice.
    """

    num_images: int
    views: tuple[int, ...] | None = None
    note: str | None = None


def choose_inputs(
    plan: Plan, augment: Augment, stage: int, record_bytes: Mapping[str, int], room_bytes: float
) -> dict[str, SplitInput]:
    """The input of each split in a stage with a frozen part; a resumed stage chooses the same.

    `record_bytes`: of one image's features in each split. `room_bytes`: for all features of the stage; the smallest
    split comes first.
    """
    steps = plan.stage_steps(stage)
    splits = sorted(("train", *plan.num_eval), key=plan.num_images)
    chosen = {split: SplitInput(plan.count_reads(split, steps)) for split in splits}
    views = {split: each for split in splits if (each := _useful_views(plan, augment, steps, split)) is not None}
    for split in sorted(views, key=lambda split: plan.num_images(split) * len(views[split])):
        num_records = plan.num_images(split) * len(views[split])
        num_bytes = num_records * record_bytes[split]
        if chosen[split].num_images < num_records - plan.dropped_per_epoch * len(views[split]):  # some are never read
            chosen[split] = replace(chosen[split], note="not kept, training is too short to use them all")
        elif num_bytes > room_bytes:
            note = f"not kept, {show_bytes(num_bytes)} are more than strategy.feature_cache_gib has left"
            chosen[split] = replace(chosen[split], note=note)
        else:
            room_bytes -= num_bytes
            chosen[split] = replace(chosen[split], views=views[split])
    return chosen


def _useful_views(plan: Plan, augment: Augment, steps: range, split: str) -> tuple[int, ...] | None:
    """Views of the split that the stage reads; None where each epoch has a new one, or the split is not used yet."""
    if split == "test":
        return (0,) if plan.total_steps in steps else None  # evaluated at the end only
    if split != "train" or not (augment.is_mixed or is_random(augment.train)):
        return (0,)
    if augment.views is None:
        return None
    epochs = range(plan.epoch(steps[0]), plan.epoch(steps[-1]) + 1)
    return tuple(sorted({epoch % augment.views for epoch in epochs}))
