"""What a training's input costs it, by the clocks of every process."""

from __future__ import annotations

from dataclasses import asdict

from launcher.data.feed import ImageFeed
from launcher.data.loader import count_workers
from launcher.recipe.augment import RANDOM_OPS
from launcher.recipe.lint import final_size
from launcher.recipe.schema import Data, Recipe
from launcher.train.bottleneck import Cost, Setting, Verdict, judge
from launcher.train.context import Training
from launcher.train.stage import Learner


def judge_input(t: Training, learner: Learner, step: int) -> Verdict | None:
    """Whether the training has waited for its input since this process began; written down. Called by every process."""
    costs = t.strategy.gather(_cost(t))
    verdict = judge(costs, setting_of(t.recipe, learner, t.strategy.device.type), t.strategy.hosts)
    if verdict is not None:
        ranks = [{name: round(value, 3) for name, value in asdict(cost).items()} for cost in costs]
        t.journal.write("event", step, t.plan.epoch(step) + 1, name="input", **asdict(verdict), ranks=ranks)
    return verdict


def _cost(t: Training) -> Cost:
    costs, world = t.costs, t.strategy.world
    return Cost(
        train_s=t.watch.train_s,
        work_s=t.strategy.pace.work_s,
        steps=t.watch.images // t.plan.global_batch,
        wait_s=costs.wait_s,
        read_s=costs.read_s,
        decode_s=costs.decode_s,
        augment_s=costs.augment_s,
        copy_s=costs.copy_s,
        long_side=costs.long_sides / max(costs.num_images, 1),
        workers=count_workers(t.recipe.data.workers, world),
        num_cores=count_workers(None, world),
    )


def setting_of(recipe: Recipe, learner: Learner, device_type: str) -> Setting:
    """What could be done about a slow input."""
    feed, augment, size = learner.feeds["train"], recipe.augment, final_size(recipe.augment.train)
    is_decoded = isinstance(feed, ImageFeed) and feed.loader.is_decoded
    feature_keys = []
    if isinstance(feed, ImageFeed) and feed.engine is not None:
        if augment.views is None and any(op.op in RANDOM_OPS for op in augment.train):
            feature_keys.append("augment.views=4")
        if not recipe.strategy.feature_cache_gib:
            feature_keys.append("strategy.feature_cache_gib=20")
    return Setting(
        is_cpu=device_type == "cpu",
        final_side=None if size is None else max(size),
        cache_keys=_cache_keys(recipe.data, is_decoded),
        feature_keys=" ".join(feature_keys) or None,
    )


def _cache_keys(data: Data, is_decoded: bool) -> str | None:
    if is_decoded:
        return None
    return "data.cache=decoded" if data.cache == "none" else f"data.cache_gib above {data.cache_gib:g}"
