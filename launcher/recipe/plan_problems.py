"""Reasons why a recipe cannot run on so many ranks with the images of a manifest, and the nearest values that work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from launcher.recipe.problem import Problem, largest_divisor
from launcher.recipe.schema import Bce, Recipe, Train

MAX_IMAGES_WITHOUT_LANES = 2**28
"""Training images that one rank can order at once: 2 GiB of ids, and several times that on the way."""

MIXED = ("augment.mixup", "augment.cutmix")


def find_plan_problems(
    recipe: Recipe, world_size: int, num_images: Mapping[str, int], num_classes: int
) -> Iterator[Problem]:
    yield from _in_images(recipe, world_size, num_images)
    yield from _in_batches(recipe, world_size)
    yield from _in_classes(recipe, num_classes)
    if recipe.train.patience and not num_images.get("valid"):
        yield Problem("train.patience", "has no effect: the data has no valid split; add one to data.split")


def _in_images(recipe: Recipe, world_size: int, num_images: Mapping[str, int]) -> Iterator[Problem]:
    global_batch, num_train = recipe.train.global_batch, num_images.get("train", 0)
    if num_train == 0:
        there = ", ".join(split for split, num in num_images.items() if num) or "no images"
        yield Problem("data.dir", f"has no train split; it has {there}")
    elif global_batch > num_train and recipe.data.last_batch == "drop":
        what = f"{global_batch} is more than the {num_train} training images; lower it or set data.last_batch=wrap"
        yield Problem("train.global_batch", what)
    if recipe.data.lanes is None and num_train > MAX_IMAGES_WITHOUT_LANES:
        what = f"required to order {num_train:,} training images without holding all their ids in memory"
        yield Problem("data.lanes", f"{what}; try {math.gcd(world_size, global_batch)}")


def _in_batches(recipe: Recipe, world_size: int) -> Iterator[Problem]:
    """The first level that does not divide: lanes, global batch, micro batch, pairs of mixed images."""
    train, lanes = recipe.train, recipe.data.lanes
    rank_batch = train.global_batch // world_size
    if lanes is not None and lanes % world_size:
        fitting = ", ".join(map(str, _fitting_world_sizes(recipe, lanes))) or "none"
        what = f"{lanes} lanes cannot be shared equally by {world_size} ranks"
        yield Problem("data.lanes", f"{what}; these numbers of ranks can: {fitting}")
    elif train.global_batch % world_size:
        near = max(world_size, round(train.global_batch / world_size) * world_size)
        what = f"{train.global_batch} cannot be shared equally by {world_size} ranks; try {near}"
        yield Problem("train.global_batch", what)
    elif train.micro_batch and rank_batch % train.micro_batch:
        near = largest_divisor(rank_batch, train.micro_batch)
        what = f"{train.micro_batch} does not divide the {rank_batch} images of one rank; try {near}"
        yield Problem("train.micro_batch", what)
    elif recipe.augment.is_mixed:
        yield from _find_odd(train, world_size)


def _fitting_world_sizes(recipe: Recipe, lanes: int) -> Iterator[int]:
    """World sizes that share lanes and global batch equally, in whole micro batches and, if images are mixed, pairs."""
    train = recipe.train
    for world_size in range(1, lanes + 1):
        rank_batch = train.global_batch // world_size
        if lanes % world_size or rank_batch % (train.micro_batch or rank_batch):
            continue
        if not (recipe.augment.is_mixed and any(_find_odd(train, world_size))):
            yield world_size


def _find_odd(train: Train, world_size: int) -> Iterator[Problem]:
    """Neighbors are mixed in pairs: an odd micro batch would leave one alone, and other ranks would pair others."""
    rank_batch = train.global_batch // world_size
    micro_batch = train.micro_batch or rank_batch
    why = "augment.mixup and augment.cutmix mix images in pairs"
    if rank_batch % 2:
        near = 2 * world_size * max(1, train.global_batch // (2 * world_size))
        yield Problem("train.global_batch", f"gives each rank {rank_batch} images, but {why}; try {near}", MIXED)
    elif micro_batch % 2:
        near = 2 * largest_divisor(rank_batch // 2, max(1, micro_batch // 2))
        yield Problem("train.micro_batch", f"{micro_batch} is odd, but {why}; try {near}", MIXED)


def _in_classes(recipe: Recipe, num_classes: int) -> Iterator[Problem]:
    if num_classes < 2:
        yield Problem("data.source", f"the data has {num_classes} class; a classifier needs two or more")
    if isinstance(recipe.loss, Bce) and num_classes > 2:
        yield Problem("loss.name", f"bce needs two classes, the data has {num_classes}; use cross_entropy")
    if recipe.train.best_metric == "top5_accuracy" and num_classes <= 5:
        what = f"top5_accuracy is always 1 with {num_classes} classes; use accuracy or loss"
        yield Problem("train.best_metric", what)
