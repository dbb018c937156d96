"""`launcher probe RECIPE`: what the frozen backbone knows, by logistic regression on what enters its head.

N images, D features, K classes.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from launcher.checkpoint.snapshot import save_weights
from launcher.commands.recipe.probe.head import Entrance, find_entrance, largest_difference, put_in_head, read_features
from launcher.commands.recipe.probe.regression import Array, Fit, Labels, Layer, choose_best, fit_grid
from launcher.data.features.format import Layout
from launcher.data.feed import Feed
from launcher.data.prepare import prepare_data
from launcher.distributed.signals import StopRequest, follow_launcher
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import read_world
from launcher.errors import EXIT_DONE, Stopped, UserError
from launcher.metrics.counts import Counts, Figures
from launcher.models.frozen.freeze import frozen_sha256
from launcher.models.frozen.split import Cut, CutError
from launcher.recipe.lock import write_lock
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.resolve import probe_recipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.run.folder import SUMMARY_NAME, RunFolder, open_run, probe_folder
from launcher.run.journal import render_json
from launcher.run.rank_log import LOGGER, log_warnings, open_rank_log
from launcher.train.context import Training, build_training
from launcher.train.frozen import build_engine, build_feeds, build_source, build_store, compile_if_it_repays, cut_frozen
from launcher.train.prepare import complete_recipe, plan_run
from launcher.train.skipped_samples import record_left_out
from launcher.train.summary import Summary, probe_rows
from shards.manifest import write_atomically

LARGEST_DIFFERENCE = 0.01
"""Between a probability of the saved network and the regression's own, for nothing to be said about it."""

Data = dict[str, tuple[Array, Labels]]
"""Split -> features_ND and labels_N."""


@dataclass(frozen=True)
class Extracted:
    """The features of every split, as this process reads them. `num_computed`: images that were not in the cache."""

    parts: Cut
    entrance: Entrance
    feeds: dict[str, Feed]
    num_computed: dict[str, int]
    features_s: float


def probe(loaded: LoadedRecipe) -> int:
    """Compute or read the features, fit, measure, save, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can mend.
    """
    stop = StopRequest()
    follow_launcher()
    world = read_world(os.environ)
    log_warnings()
    complete = complete_recipe(loaded, Console(1, 1).say if world.is_first else lambda note: None)
    recipe = probe_recipe(complete, world.size)
    strategy = build_strategy(recipe.strategy, world, recipe.run.seed, recipe.run.deterministic)
    with strategy.first_ahead(stop.is_wanted) as should_stop:
        manifest = prepare_data(recipe.data, world, should_stop)
    plan = plan_run(loaded, recipe, world.size, manifest)
    strategy.check_same("shards, recipe or number of images", [manifest.sha256, recipe.model_dump_json(), str(plan)])
    run = strategy.on_first(lambda: _open_folder(recipe))
    open_rank_log(run.logs, world.rank)
    t = build_training(_in_folder(recipe, str(run.path)), plan, manifest, strategy, run)
    try:
        if world.is_first:
            write_lock(run.path, t.recipe, f"probe {run.id}, data {manifest.sha256}")
        t.journal.write("event", 0, 0, name="started", command=sys.argv, data_sha256=manifest.sha256, id=run.id)
        extracted = _extract(t, stop)
        # Only words go between the processes here, by gloo: the others can wait as long as a fit may take.
        t.strategy.on_first(lambda: _fit_and_save(t, extracted, stop))
        record_left_out(t, 0)
    except BaseException as error:
        _fail(t, error)
        raise
    finally:
        t.close()
    t.strategy.close()
    return EXIT_DONE


def _open_folder(recipe: Recipe) -> RunFolder:
    """Always a new one in `runs/<name>/`: `run.dir` is where the recipe trains."""
    return open_run(_in_folder(recipe, str(probe_folder(recipe))))


def _in_folder(recipe: Recipe, path: str) -> Recipe:
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"dir": path})})


def _extract(t: Training, stop: StopRequest) -> Extracted:
    """The features of every split, from the cache or computed by all processes together."""
    start_s = time.perf_counter()
    parts, entrance = _cut_at_head(t)
    t.strategy.check_same("frozen weights", [str(frozen_sha256(t.network.model))])
    t.console.say(f"{t.recipe.run.name}: {t.recipe.backbone.name}, features are what enters {t.network.head_name}")
    engine = build_engine(t, parts)
    store = build_store(t, parts, stop.is_wanted, t.console.say)
    sources = [build_source(t, split, feed, (0,)) for split, feed in build_feeds(t, engine).items()]
    gib = sum(Layout(source.values, source.num_images, 1).num_bytes for source in sources) / 2**30
    if gib * 2**30 > store.room_bytes:
        raise UserError(
            f"strategy.feature_cache_gib: the features take {gib:.2g} GiB, {t.recipe.strategy.feature_cache_gib:g} are "
            f"allowed; set it to {math.ceil(gib * 100) / 100:g}"
        )
    missing = {source.split: store.count_missing(source) for source in sources}
    if any(missing.values()):
        compile_if_it_repays(t, engine, sum(missing.values()), t.console.say)
    feeds = {source.split: store.open(source) for source in sources}
    return Extracted(parts, entrance, feeds, missing, time.perf_counter() - start_s)


def _cut_at_head(t: Training) -> tuple[Cut, Entrance]:
    """Raise UserError when what enters the head cannot be had."""
    name = t.recipe.backbone.name
    if t.network.twin_names:
        heads = ", ".join((*t.network.twin_names, t.network.head_name))
        raise UserError(f"backbone.name: {name} cannot be probed: it averages several classifiers ({heads})")
    try:
        parts = cut_frozen(t)
    except CutError as error:
        raise UserError(f"backbone.name: {name} cannot be probed: {error}; choose another backbone") from None
    entrance = find_entrance(parts, t.network.model, t.network.head_name)
    if entrance is None:
        raise UserError(f"backbone.name: {name} cannot be probed: its classifier cannot be told apart from the rest")
    return parts, entrance


def _fit_and_save(t: Training, extracted: Extracted, stop: StopRequest) -> None:
    """Everything that is for one process to do."""
    entrance = extracted.entrance
    feeds = {split: (feed, _num_images(t, split)) for split, feed in extracted.feeds.items()}
    data = {split: read_features(feed, num_images, entrance) for split, (feed, num_images) in feeds.items()}
    num_features = data["train"][0].shape[1]
    for split, (features_ND, _) in data.items():
        num_computed = extracted.num_computed[split]
        facts = {"split": split, "num_images": len(features_ND), "num_computed": num_computed}
        t.journal.write("event", 0, 0, name="features", num_features=num_features, **facts)
    _check_classes(t, data["train"][1])
    fits = list(_fit_all(t, data, stop))
    best = choose_best(fits)
    figures = {split: _measure(t, best.layer, *each) for split, each in data.items()}
    for split, each in figures.items():
        t.journal.write("eval", 0, 0, split=split, C=best.C, **each)
    put_in_head(entrance, best.layer, feeds)
    suffix = extracted.parts.eval_suffix(t.network.model).eval()
    difference = largest_difference(suffix, entrance, best.layer, *feeds["train"])
    if not difference <= LARGEST_DIFFERENCE:
        t.console.say(f"note: probabilities of the saved network are up to {difference:.2g} off the regression's")
    save_weights(t.run.checkpoints, t.state)
    t.journal.write("checkpoint", 0, 0, name="best", largest_difference=difference)
    facts = {"num_features": num_features, "num_computed": extracted.num_computed, "largest_difference": difference}
    summary = _summarise(t, "done", {**facts, "features_s": round(extracted.features_s, 3)}, fits, best, figures)
    t.journal.write("event", 0, 0, name="done")
    t.console.table(str(t.recipe.run.name), probe_rows(summary, str(t.run.path)))


def _num_images(t: Training, split: str) -> int:
    return t.plan.num_train if split == "train" else t.plan.num_eval[split]


def _check_classes(t: Training, labels_N: Labels) -> None:
    counts = np.bincount(labels_N, minlength=len(t.classes))
    if missing := [name for name, num in zip(t.classes, counts, strict=True) if not num]:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"data: {len(missing)} classes have no training images ({names}); leave these out")


def _fit_all(t: Training, data: Data, stop: StopRequest) -> Iterator[Fit]:
    valid = data.get("valid")
    for fit in fit_grid(data["train"], valid):
        t.journal.write("event", 0, 0, name="probe", **fit.facts())
        judged = "no valid split to choose C by" if valid is None else f"valid top-1 {fit.valid_top1_frac:.2%}"
        late = "" if fit.is_converged else ", not converged"
        t.console.say(f"C {fit.C:g}: {judged}, {fit.fit_s:.1f} s{late}")
        yield fit
        if stop.is_wanted():
            raise Stopped("stopped while fitting; the same command reads the features again and fits anew")


def _measure(t: Training, layer: Layer, features_ND: Array, labels_N: Labels) -> Figures:
    counts = Counts(t.plan.num_classes, torch.device("cpu"))
    scores_NK, labels = torch.from_numpy(layer.scores(features_ND)), torch.from_numpy(labels_N)
    counts.add(scores_NK, labels, F.cross_entropy(scores_NK, labels, reduction="none"), torch.ones_like(labels))
    return counts.figures(t.classes)


def _summarise(
    t: Training, status: str, facts: dict[str, Any], fits: list[Fit], best: Fit, figures: dict[str, Figures]
) -> Summary:
    summary: Summary = {
        "name": t.recipe.run.name,
        "kind": "probe",
        "status": status,
        "C": best.C,
        "tried": [fit.facts() for fit in fits],
        "fit_s": round(sum(fit.fit_s for fit in fits), 3),
        **facts,
        "world_size": t.plan.world_size,
        "device": t.strategy.device.type,
        "precision": t.recipe.strategy.precision,
        **figures,
    }
    write_atomically(t.run.path / SUMMARY_NAME, f"{render_json(summary, indent=1)}\n".encode())
    return summary


def _fail(t: Training, error: BaseException) -> None:
    """Say in the folder how it ended; the error itself goes on to the user."""
    status = "preempted" if isinstance(error, Stopped) else "failed"
    LOGGER.error(status, exc_info=error)
    if not t.strategy.world.is_first:
        return
    try:
        t.journal.write("event", 0, 0, name=status, message=f"{type(error).__name__}: {error}")
        facts = {"name": t.recipe.run.name, "kind": "probe", "status": status}
        write_atomically(t.run.path / SUMMARY_NAME, f"{render_json(facts, indent=1)}\n".encode())
    except OSError as second:
        LOGGER.error("could not be written down: %s", second)
