"""Recipe x processes x image counts -> Plan: from here on every batch, step and interval is a whole number.

Pure, and finished before a device is touched: every process computes the same plan, so every process runs the same
number of steps, and none can wait for another at the end of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from launcher.recipe.duration import Duration
from launcher.recipe.optim import OneCycle, StepDecay
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Bce, Recipe, Train

ONECYCLE_WARMUP_FRAC = 0.3

MOST_WITHOUT_LANES = 2**28
"""Training images that one process can put in order at once: 2 GiB of ids, and several times that on the way."""


class PlanError(Exception):
    """The recipe cannot be run on these processes with this data."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{p.path}: {p.what}" for p in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Due:
    """What follows a step."""

    log: bool
    """A train record: also before a validation or a save, so that a loss that is not finite ends the run first."""
    validate: bool
    save: bool
    """The checkpoint; the loop saves a new best and the end of patience, too."""
    report: bool
    """What the epoch's input cost, and which images it skipped."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All whole numbers of a run. Steps are optimizer steps and count from 1; epochs of samples count from 0."""

    world_size: int
    num_classes: int
    num_train: int
    """Training images."""
    num_eval: Mapping[str, int]
    """Images of each evaluated split that has any: valid, test."""
    global_batch: int
    """Images per step over all processes."""
    rank_batch: int
    """Images per step of one process."""
    micro_batch: int
    """Images per forward pass of one process."""
    accumulation: int
    """Forward passes per step."""
    eval_batch: int
    """Images per forward pass of one process in evaluation."""
    steps_per_epoch: int
    total_steps: int
    dropped_per_epoch: int
    """Images an epoch leaves out with its incomplete last batch; another random few every epoch."""
    wrapped_per_epoch: int
    """Images an epoch sees twice to fill its last batch."""
    lanes: int
    """Parts of an epoch that every global batch takes equally from; 0: an epoch is one random order of all images."""
    lane_window: int
    """Neighbouring images of a lane that are shuffled with one another; 0 without lanes."""
    warmup_steps: int
    drop_every_steps: int
    """Steps between two drops of a step schedule; 0: no such schedule."""
    evaluate_every_steps: int
    checkpoint_every_steps: int
    """0: only the best and the last."""
    log_every_steps: int
    stage_starts: tuple[int, ...]
    """Steps done when each stage of backbone.freeze begins; the first is 0."""
    notes: tuple[str, ...]
    """What is allowed but will surprise; shown and logged."""

    def num_images(self, split: str) -> int:
        """Images of `split` that are trained or evaluated on."""
        return self.num_train if split == "train" else self.num_eval[split]

    def epoch(self, step: int) -> int:
        """The epoch, from 0, whose samples step `step` trains on."""
        return (step - 1) // self.steps_per_epoch

    def due(self, step: int, *, should_stop: bool, is_stage_end: bool) -> Due:
        """`should_stop`: agreed by all ranks. `is_stage_end`: the last step before other parts of the network train."""
        validate = self.should_validate(step)
        save = self.should_save(step) or should_stop or is_stage_end
        report = step % self.steps_per_epoch == 0 and step < self.total_steps
        return Due(self.should_log(step) or validate or save, validate, save, report)

    def should_validate(self, step: int) -> bool:
        return step % self.evaluate_every_steps == 0 or step == self.total_steps

    def should_save(self, step: int) -> bool:
        regular = self.checkpoint_every_steps > 0 and step % self.checkpoint_every_steps == 0
        return regular or step == self.total_steps

    def should_log(self, step: int) -> bool:
        return step % self.log_every_steps == 0 or step == self.total_steps

    def stage(self, step: int) -> int:
        """The stage of freezing, from 0, that step `step` trains in."""
        return sum(step > start for start in self.stage_starts) - 1

    def steps_by_stage(self, first: int) -> Iterator[tuple[int, range]]:
        """Each stage of freezing that has steps from `first` on, and these."""
        ends = (*self.stage_starts[1:], self.total_steps)
        for stage, (start, end) in enumerate(zip(self.stage_starts, ends, strict=True)):
            steps = range(max(start + 1, first), min(end, self.total_steps) + 1)
            if steps:
                yield stage, steps


def make_plan(recipe: Recipe, world_size: int, num_images: Mapping[str, int], num_classes: int) -> Plan:
    """Raise PlanError with every reason why this recipe cannot run on `world_size` processes with these images."""
    train, num_train = recipe.train, num_images.get("train", 0)
    problems = list(_find_problems(recipe, world_size, num_images, num_classes))
    if problems:
        raise PlanError(problems)
    wrap = recipe.data.last_batch == "wrap"
    rest = num_train % train.global_batch
    steps_per_epoch = -(-num_train // train.global_batch) if wrap else num_train // train.global_batch

    def steps(duration: Duration) -> int:
        return duration.steps(steps_per_epoch, train.global_batch)

    total_steps = steps(train.epochs)
    warmup_steps = _warmup_steps(recipe, total_steps, steps_per_epoch)
    rank_batch = train.global_batch // world_size
    micro_batch = train.micro_batch or rank_batch
    return Plan(
        world_size=world_size,
        num_classes=num_classes,
        num_train=num_train,
        num_eval={split: num_images[split] for split in ("valid", "test") if num_images.get(split, 0)},
        global_batch=train.global_batch,
        rank_batch=rank_batch,
        micro_batch=micro_batch,
        accumulation=rank_batch // micro_batch,
        eval_batch=train.eval_batch or micro_batch,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        dropped_per_epoch=0 if wrap else rest,
        wrapped_per_epoch=train.global_batch - rest if wrap and rest else 0,
        lanes=recipe.data.lanes or 0,
        lane_window=recipe.data.shuffle_images // recipe.data.lanes if recipe.data.lanes else 0,
        warmup_steps=warmup_steps,
        drop_every_steps=steps(recipe.schedule.every) if isinstance(recipe.schedule, StepDecay) else 0,
        evaluate_every_steps=steps(train.evaluate_every),
        checkpoint_every_steps=steps(recipe.checkpoint.every) if recipe.checkpoint.every else 0,
        log_every_steps=steps(recipe.log.every),
        stage_starts=tuple(steps(stage.at) for stage in recipe.backbone.stages),
        notes=_notes(recipe, total_steps, steps_per_epoch, num_images),
    )


def _warmup_steps(recipe: Recipe, total_steps: int, steps_per_epoch: int) -> int:
    if recipe.schedule.warmup is not None:
        return recipe.schedule.warmup.steps(steps_per_epoch, recipe.train.global_batch)
    return int(ONECYCLE_WARMUP_FRAC * total_steps)


def _find_problems(recipe: Recipe, world_size: int, num_images: Mapping[str, int], num_classes: int) -> list[Problem]:
    train, num_train = recipe.train, num_images.get("train", 0)
    problems: list[Problem] = []

    def add(path: str, what: str) -> None:
        problems.append(Problem(path, what, (path,)))

    if num_train == 0:
        there = ", ".join(split for split, num in num_images.items() if num) or "no images"
        add("data.dir", f"has no train split; it has {there}")
    elif train.global_batch > num_train and recipe.data.last_batch == "drop":
        add(
            "train.global_batch",
            f"{train.global_batch} is more than the {num_train} training images; lower it or set data.last_batch=wrap",
        )
    if recipe.data.lanes is None and num_train > MOST_WITHOUT_LANES:
        what = f"needed to put {num_train:,} training images in order without holding all their numbers in memory"
        add("data.lanes", f"{what}; try {math.gcd(world_size, train.global_batch)}")
    if recipe.data.lanes is not None and recipe.data.lanes % world_size:
        fitting = ", ".join(map(str, _fitting_world_sizes(recipe, recipe.data.lanes))) or "none"
        what = f"{recipe.data.lanes} lanes cannot be shared equally by {world_size} processes"
        add("data.lanes", f"{what}; these numbers of processes can: {fitting}")
    elif train.global_batch % world_size:
        near = max(world_size, round(train.global_batch / world_size) * world_size)
        add(
            "train.global_batch", f"{train.global_batch} cannot be shared equally by {world_size} processes; try {near}"
        )
    elif train.micro_batch and (train.global_batch // world_size) % train.micro_batch:
        rank_batch = train.global_batch // world_size
        near = max(d for d in range(1, min(train.micro_batch, rank_batch) + 1) if rank_batch % d == 0)
        add(
            "train.micro_batch",
            f"{train.micro_batch} does not divide the {rank_batch} images of one process; try {near}",
        )
    elif recipe.augment.is_mixed:
        problems += _find_odd(train, world_size)
    if num_classes < 2:
        add("data.source", f"the data has {num_classes} class; telling pictures apart takes two or more")
    if isinstance(recipe.loss, Bce) and num_classes > 2:
        add("loss.name", f"bce needs two classes, the data has {num_classes}; use cross_entropy")
    if train.best_metric == "top5_accuracy" and num_classes <= 5:
        add("train.best_metric", f"top5_accuracy is always 1 with {num_classes} classes; use accuracy or loss")
    if train.patience and not num_images.get("valid"):
        add("train.patience", "has no effect: the data has no valid split; give data.split one")
    return problems


def _fitting_world_sizes(recipe: Recipe, lanes: int) -> Iterator[int]:
    """All that share lanes and global batch equally, in whole micro batches and, where images are mixed, in pairs."""
    train = recipe.train
    for world_size in range(1, lanes + 1):
        rank_batch = train.global_batch // world_size
        if lanes % world_size or rank_batch % (train.micro_batch or rank_batch):
            continue
        if not (recipe.augment.is_mixed and any(_find_odd(train, world_size))):
            yield world_size


def _find_odd(train: Train, world_size: int) -> Iterator[Problem]:
    """Pairs of neighbours are mixed: an odd micro batch would leave one alone, and pair others on other processes."""
    rank_batch = train.global_batch // world_size
    micro_batch = train.micro_batch or rank_batch
    what = "augment.mixup and augment.cutmix mix images in pairs"
    if rank_batch % 2:
        near = 2 * world_size * max(1, train.global_batch // (2 * world_size))
        path, what = "train.global_batch", f"gives each process {rank_batch} images, but {what}; try {near}"
        yield Problem(path, what, (path, "augment.mixup", "augment.cutmix"))
    elif micro_batch % 2:
        near = max(d for d in range(2, max(micro_batch, 2) + 1, 2) if rank_batch % d == 0)
        path, what = "train.micro_batch", f"{micro_batch} is odd, but {what}; try {near}"
        yield Problem(path, what, (path, "augment.mixup", "augment.cutmix"))


def _notes(recipe: Recipe, total_steps: int, steps_per_epoch: int, num_images: Mapping[str, int]) -> tuple[str, ...]:
    notes = []
    schedule = recipe.schedule
    if (
        isinstance(schedule, StepDecay)
        and schedule.every.steps(steps_per_epoch, recipe.train.global_batch) >= total_steps
    ):
        notes.append(f"schedule.every {schedule.every} is not shorter than the training: the learning rate never drops")
    if _warmup_steps(recipe, total_steps, steps_per_epoch) >= total_steps:
        notes.append(f"schedule.warmup {schedule.warmup} is not shorter than the training: the peak is never passed")
    stages = recipe.backbone.stages
    if stages[0].freeze != "none" and recipe.backbone.weights == "none":
        notes.append("backbone.freeze holds random weights: backbone.weights is none")
    starts = [stage.at.steps(steps_per_epoch, recipe.train.global_batch) for stage in stages]
    if len(set(starts)) < len(starts):
        notes.append("backbone.freeze: two stages begin at the same step, the first of them has none")
    for stage in stages:
        if stage.at.steps(steps_per_epoch, recipe.train.global_batch) >= total_steps:
            notes.append(f"backbone.freeze: the stage at {stage.at} is never reached")
    if not num_images.get("valid"):
        notes.append("no valid split: nothing is evaluated while training, and the last step counts as the best")
    if isinstance(schedule, OneCycle) and recipe.train.patience:
        notes.append("train.patience may end a onecycle schedule before its low learning rates")
    return tuple(notes)
