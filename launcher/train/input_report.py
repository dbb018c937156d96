"""The cost of a training's input, by the clocks of every rank: the report of an epoch, and of the whole run."""

from __future__ import annotations

from dataclasses import asdict

from launcher.data.feed import ImageFeed
from launcher.recipe.facts import is_random, train_size
from launcher.recipe.schema import Recipe
from launcher.run.run_log import RunLog
from launcher.train.bottleneck import InputCost, InputReport, Tunables, diagnose
from launcher.train.job import Job
from launcher.train.stage import Stage


def report_input(job: Job, stage: Stage, step: int, log: RunLog) -> InputReport | None:
    """Whether the training has waited for its input since this process started; logged. Called by every rank."""
    comm = job.strategy.comm
    costs = comm.all_gather_object(_cost(job, stage))
    report = diagnose(costs, tunables_of(job.recipe, stage, job.strategy.device.type), comm.hosts)
    if report is not None:
        ranks = [{name: round(value, 3) for name, value in asdict(cost).items()} for cost in costs]
        log.event(step, "input", **asdict(report), ranks=ranks)
    return report


def _cost(job: Job, stage: Stage) -> InputCost:
    inputs, timer = stage.inputs, stage.inputs.timer
    times = timer.input
    return InputCost(
        train_s=timer.train_s,
        compute_s=job.strategy.compute_timer.compute_s,
        steps=timer.images // job.plan.global_batch,
        wait_s=times.wait_s,
        read_s=times.read_s,
        decode_s=times.decode_s,
        augment_s=times.augment_s,
        copy_s=times.copy_s,
        long_side=times.long_sides / max(times.num_images, 1),
        workers=inputs.image_feeds["train"].loader.workers,
        num_cores=inputs.num_cpus,
    )


def tunables_of(recipe: Recipe, stage: Stage, device_type: str) -> Tunables:
    """The settings that can make a slow input faster."""
    feed, augment, data = stage.feeds["train"], recipe.augment, recipe.data
    is_decoded = isinstance(feed, ImageFeed) and feed.loader.is_decoded
    cache_keys = "data.cache=decoded" if data.cache == "none" else f"data.cache_gib above {data.cache_gib:g}"
    feature_keys = []
    if isinstance(feed, ImageFeed) and feed.engine is not None:
        if augment.views is None and is_random(augment.train):
            feature_keys.append("augment.views=4")
        if not recipe.strategy.feature_cache_gib:
            feature_keys.append("strategy.feature_cache_gib=20")
    return Tunables(
        is_cpu=device_type == "cpu",
        final_side=max(train_size(recipe)),
        cache_keys=None if is_decoded else cache_keys,
        feature_keys=" ".join(feature_keys) or None,
    )
