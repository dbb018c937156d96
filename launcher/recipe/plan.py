"""Recipe x world size x image counts -> Plan: every batch, step and interval as a whole number.

Pure, and finished before a device is touched. Every rank computes the same plan and so runs the same number of steps:
none waits for another at the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from launcher.recipe.duration import Duration
from launcher.recipe.optim import OneCycle, StepDecay
from launcher.recipe.plan_problems import find_plan_problems
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Recipe

ONECYCLE_WARMUP_FRAC = 0.3


class PlanError(Exception):
    """The recipe cannot run on these ranks with this data."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(f"{p.path}: {p.message}" for p in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Due:
    """Actions after a step."""

    log: bool
    """A train record: before every validation and save, too, so that a loss that is not finite ends the run first."""
    validate: bool
    save: bool
    """A checkpoint. The loop also saves a new best and the end of patience."""
    report: bool
    """The input cost and the skipped images of the epoch."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All whole numbers of a run. Steps are optimizer steps and count from 1; epochs count from 0."""

    world_size: int
    num_classes: int
    num_train: int
    """Training images."""
    num_eval: Mapping[str, int]
    """Images of each of valid and test that has any."""
    global_batch: int
    """Images per step over all ranks."""
    rank_batch: int
    """Images per step of one rank."""
    micro_batch: int
    """Images per forward pass of one rank."""
    accumulation: int
    """Forward passes per step."""
    eval_batch: int
    """Images per forward pass of one rank in evaluation."""
    steps_per_epoch: int
    total_steps: int
    dropped_per_epoch: int
    """Images of the incomplete last batch, which an epoch drops: other random ones every epoch."""
    wrapped_per_epoch: int
    """Images that an epoch sees twice to fill its last batch."""
    lanes: int
    """Parts of an epoch from which every global batch takes equally; 0: an epoch is one random order of all images."""
    lane_window: int
    """Neighboring images of a lane that are shuffled with one another; 0 without lanes."""
    warmup_steps: int
    drop_every_steps: int
    """Steps between two drops of a step schedule; 0: no such schedule."""
    evaluate_every_steps: int
    checkpoint_every_steps: int
    """Steps between two regular checkpoints; 0: only the best and the last."""
    log_every_steps: int
    stage_starts: tuple[int, ...]
    """Steps done when each stage of backbone.freeze begins; the first is 0."""
    notes: tuple[str, ...] = ()
    """Messages about legal but surprising choices; shown and logged."""

    def num_images(self, split: str) -> int:
        """Images of `split` that are trained or evaluated on."""
        return self.num_train if split == "train" else self.num_eval[split]

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that contains step `step`."""
        return (step - 1) // self.steps_per_epoch

    def due(self, step: int, *, should_stop: bool, is_stage_end: bool) -> Due:
        """`should_stop`: agreed by all ranks. `is_stage_end`: the last step before other parts of the network train."""
        validate = self.should_validate(step)
        # The entry of the next stage may be asked to stop, and then loses nothing.
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
        """The stage of freezing, from 0, that contains step `step`."""
        return sum(step > start for start in self.stage_starts) - 1

    def steps_by_stage(self, first: int) -> Iterator[tuple[int, range]]:
        """Each stage of freezing that has steps from `first` on, with these steps."""
        for stage in range(len(self.stage_starts)):
            if steps := self.stage_steps(stage, first):
                yield stage, steps

    def stage_steps(self, stage: int, first: int = 1) -> range:
        """The steps of a stage of freezing from `first` on; none where it is never reached."""
        starts = (*self.stage_starts, self.total_steps)
        return range(max(starts[stage] + 1, first), min(starts[stage + 1], self.total_steps) + 1)

    def count_reads(self, split: str, steps: range) -> int:
        """Images of `split` that training and validations read in `steps`, repetitions included; of test each once."""
        if split == "train":
            return len(steps) * self.global_batch
        if split == "valid":
            return self.num_eval[split] * sum(map(self.should_validate, steps))
        return self.num_eval[split]


def make_plan(recipe: Recipe, world_size: int, num_images: Mapping[str, int], num_classes: int) -> Plan:
    """`num_images`: by split. Raise PlanError with every reason why the recipe cannot run so."""
    if problems := list(find_plan_problems(recipe, world_size, num_images, num_classes)):
        raise PlanError(problems)
    plan = _compute(recipe, world_size, num_images, num_classes)
    return replace(plan, notes=tuple(_notes(recipe, plan)))


def _compute(recipe: Recipe, world_size: int, num_images: Mapping[str, int], num_classes: int) -> Plan:
    train, data, schedule, num_train = recipe.train, recipe.data, recipe.schedule, num_images["train"]
    # An epoch is whole global batches; the images that remain are dropped, or filled up to one more batch.
    whole_batches, rest = divmod(num_train, train.global_batch)
    wraps = data.last_batch == "wrap" and rest > 0
    steps_per_epoch = whole_batches + 1 if wraps else whole_batches

    def steps(length: Duration) -> int:
        return length.steps(steps_per_epoch, train.global_batch)

    total_steps = steps(train.epochs)
    # A step is an equal part for every rank, in one or more forward passes.
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
        dropped_per_epoch=0 if wraps else rest,
        wrapped_per_epoch=train.global_batch - rest if wraps else 0,
        lanes=data.lanes or 0,
        lane_window=data.shuffle_images // data.lanes if data.lanes else 0,
        warmup_steps=steps(schedule.warmup) if schedule.warmup else int(ONECYCLE_WARMUP_FRAC * total_steps),
        drop_every_steps=steps(schedule.every) if isinstance(schedule, StepDecay) else 0,
        evaluate_every_steps=steps(train.evaluate_every),
        checkpoint_every_steps=steps(recipe.checkpoint.every) if recipe.checkpoint.every else 0,
        log_every_steps=steps(recipe.log.every),
        stage_starts=tuple(steps(stage.at) for stage in recipe.backbone.stages),
    )


def _notes(recipe: Recipe, plan: Plan) -> Iterator[str]:
    schedule, stages, starts = recipe.schedule, recipe.backbone.stages, plan.stage_starts
    if isinstance(schedule, StepDecay) and plan.drop_every_steps >= plan.total_steps:
        yield f"schedule.every {schedule.every} is not shorter than the training: the learning rate never drops"
    if plan.warmup_steps >= plan.total_steps:
        yield f"schedule.warmup {schedule.warmup} is not shorter than the training: the peak is never passed"
    if stages[0].freeze != "none" and recipe.backbone.weights == "none":
        yield "backbone.freeze freezes random weights: backbone.weights is none"
    if len(set(starts)) < len(starts):
        yield "backbone.freeze: two stages begin at the same step; the first of them has no steps"
    for stage, start in zip(stages, starts, strict=True):
        if start >= plan.total_steps:
            yield f"backbone.freeze: the stage at {stage.at} is never reached"
    if "valid" not in plan.num_eval:
        yield "no valid split: training never validates, and the last step counts as the best"
    if isinstance(schedule, OneCycle) and recipe.train.patience:
        yield "train.patience may end a onecycle schedule before its low learning rates"
