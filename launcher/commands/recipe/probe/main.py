"""`launcher probe RECIPE`: what the frozen backbone knows, by logistic regression on what enters its head.

N images, D features, K classes.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from launcher.checkpoint.snapshot import save_weights
from launcher.checkpoint.state import TrainState
from launcher.commands.recipe.probe.head import (
    HeadInput,
    find_head_input,
    largest_difference,
    put_in_head,
    read_features,
)
from launcher.commands.recipe.probe.regression import Array, Fit, Labels, Layer, choose_best, fit_grid
from launcher.data.features.format import Layout, Value
from launcher.data.feed import Feed
from launcher.distributed.comm import ShouldStop
from launcher.distributed.signals import follow_launcher, install_signal_handlers
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import read_world
from launcher.errors import EXIT_DONE, Stopped, UserError
from launcher.metrics.counts import Counts
from launcher.metrics.names import Metrics, show_metric
from launcher.models.frozen.freeze import frozen_sha256
from launcher.models.frozen.split import FrozenSplit, SplitError
from launcher.recipe.fields import with_values
from launcher.recipe.lock import write_lock
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.resolve import probe_recipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console, Row
from launcher.run.folder import SUMMARY_NAME, RunFolder, open_run, probe_folder
from launcher.run.journal import render_json
from launcher.run.rank_log import LOGGER, log_warnings
from launcher.run.run_log import RunLog
from launcher.train.frozen import (
    build_engine,
    build_request,
    build_store,
    compile_if_worth,
    feature_values,
    split_network,
    with_engine,
)
from launcher.train.inputs import Inputs, build_inputs
from launcher.train.job import Job, build_state, open_job, open_run_log
from launcher.train.prepare import complete_recipe
from launcher.train.summary import Summary, metrics_rows
from shards.manifest import write_atomically

LARGEST_DIFFERENCE = 0.01
"""Between a probability of the saved network and the regression's own, for nothing to be said about it."""

Data = dict[str, tuple[Array, Labels]]
"""Split -> features_ND and labels_N."""


@dataclass(frozen=True)
class Extracted:
    """The features of every split, as this rank reads them. `num_computed`: images that were not in the cache."""

    split: FrozenSplit
    head_input: HeadInput
    feeds: dict[str, Feed]
    num_computed: dict[str, int]
    features_s: float


def probe(loaded: LoadedRecipe) -> int:
    """Compute or read the features, fit, measure, save, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can mend.
    """
    stop = install_signal_handlers()
    follow_launcher()
    world = read_world(os.environ)
    log_warnings()
    complete = complete_recipe(loaded, Console().say if world.is_first else lambda note: None)
    recipe = probe_recipe(complete, world.size)
    strategy = build_strategy(recipe.strategy, world, recipe.run.seed, recipe.run.deterministic, stop)
    job = open_job(loaded, recipe, strategy, _open_folder)
    with ExitStack() as closing:
        if world.is_first:
            closing.callback(job.run.release)
        state, log = build_state(job), open_run_log(job)
        inputs = build_inputs(job, log.say)
        for each in (log, inputs):
            closing.callback(each.close)
        try:
            if world.is_first:
                write_lock(job.run.path, job.recipe, f"probe {job.run.id}, data {job.manifest.sha256}")
            log.event(0, "started", command=sys.argv, data_sha256=job.manifest.sha256, id=job.run.id)
            extracted = _extract(job, state, inputs, log)
            # Only words go between the ranks here, by gloo: the others can wait as long as a fit may take.
            strategy.comm.run_on_rank0(lambda: _fit_and_save(job, state, extracted, log, stop))
            inputs.skipped.record(strategy.comm, log, 0)
        except BaseException as error:
            _fail(job, log, error)
            raise
    strategy.comm.close()
    return EXIT_DONE


def _open_folder(recipe: Recipe) -> RunFolder:
    """Always a new one in `runs/<name>/`: `run.dir` is where the recipe trains."""
    return open_run(with_values(recipe, {"run.dir": str(probe_folder(recipe))}))


def _extract(job: Job, state: TrainState, inputs: Inputs, log: RunLog) -> Extracted:
    """The features of every split, from the cache or computed by all ranks together."""
    start_s = time.perf_counter()
    split, head_input = _split_at_head(job, state)
    job.strategy.comm.check_same("frozen weights", [str(frozen_sha256(state.model))])
    log.say(f"{job.recipe.run.name}: {job.recipe.backbone.name}, features are what enters {state.network.head_name}")
    engine = build_engine(job, split)
    values = feature_values(job, engine)
    _check_room(job, values)
    store = build_store(job, split, log.say)
    requests = [build_request(job, name, feed, values[name]) for name, feed in with_engine(inputs, engine).items()]
    missing = {request.split: store.count_missing(request) for request in requests}
    compile_if_worth(job, engine, sum(missing.values()), log.say)
    feeds = {request.split: store.open(request) for request in requests}
    return Extracted(split, head_input, feeds, missing, time.perf_counter() - start_s)


def _check_room(job: Job, values: Mapping[str, tuple[Value, ...]]) -> None:
    """Raise UserError when the features of all splits are more than the recipe allows."""
    num_bytes = sum(Layout(each, job.plan.num_images(name), 1).num_bytes for name, each in values.items())
    gib, limit_gib = num_bytes / 2**30, job.recipe.strategy.feature_cache_gib
    if gib > limit_gib:
        raise UserError(
            f"strategy.feature_cache_gib: the features take {gib:.2g} GiB, {limit_gib:g} are allowed; "
            f"set it to {math.ceil(gib * 100) / 100:g}"
        )


def _split_at_head(job: Job, state: TrainState) -> tuple[FrozenSplit, HeadInput]:
    """Raise UserError when what enters the head cannot be had."""
    name, network = job.recipe.backbone.name, state.network
    if network.twin_names:
        heads = ", ".join((*network.twin_names, network.head_name))
        raise UserError(f"backbone.name: {name} cannot be probed: it averages several classifiers ({heads})")
    try:
        split = split_network(job, state)
    except SplitError as error:
        raise UserError(f"backbone.name: {name} cannot be probed: {error}; choose another backbone") from None
    head_input = find_head_input(split, network.model, network.head_name)
    if head_input is None:
        raise UserError(f"backbone.name: {name} cannot be probed: its classifier cannot be told apart from the rest")
    return split, head_input


def _fit_and_save(job: Job, state: TrainState, extracted: Extracted, log: RunLog, stop: ShouldStop) -> None:
    """Everything that is for one process to do."""
    head_input = extracted.head_input
    feeds = {split: (feed, job.plan.num_images(split)) for split, feed in extracted.feeds.items()}
    data = {split: read_features(feed, num_images, head_input) for split, (feed, num_images) in feeds.items()}
    num_features = data["train"][0].shape[1]
    for split, (features_ND, _) in data.items():
        num_computed = extracted.num_computed[split]
        numbers = {"num_images": len(features_ND), "num_computed": num_computed, "num_features": num_features}
        log.event(0, "features", split=split, **numbers)
    _check_classes(job, data["train"][1])
    fits = list(_fit_all(data, log, stop))
    best = choose_best(fits)
    metrics = {split: _measure(job, best.layer, *each) for split, each in data.items()}
    for split, each in metrics.items():
        log.evaluation(0, split, each, weights_step=0, show=False, C=best.C)
    put_in_head(head_input, best.layer, feeds)
    trainable = extracted.split.eval_trainable(state.model).eval()
    difference = largest_difference(trainable, head_input, best.layer, *feeds["train"])
    if not difference <= LARGEST_DIFFERENCE:
        log.say(f"note: probabilities of the saved network are up to {difference:.2g} off the regression's")
    save_weights(job.run.checkpoints, state)
    log.checkpoint(0, name="best", largest_difference=difference)
    numbers = {"num_features": num_features, "num_computed": extracted.num_computed, "largest_difference": difference}
    summary = _build_summary(job, {**numbers, "features_s": round(extracted.features_s, 3)}, fits, best, metrics)
    _write_summary(job, summary)
    log.event(0, "done")
    log.table(str(job.recipe.run.name), probe_rows(summary, str(job.run.path)))


def _check_classes(job: Job, labels_N: Labels) -> None:
    counts = np.bincount(labels_N, minlength=len(job.classes))
    if missing := [name for name, num in zip(job.classes, counts, strict=True) if not num]:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"data: {len(missing)} classes have no training images ({names}); leave these out")


def _fit_all(data: Data, log: RunLog, stop: ShouldStop) -> Iterator[Fit]:
    for fit in fit_grid(data["train"], data.get("valid")):
        log.event(0, "probe", **fit.to_json())
        accuracy = fit.valid_accuracy
        scored = "no valid split to choose C by" if accuracy is None else f"valid {show_metric('accuracy', accuracy)}"
        late = "" if fit.is_converged else ", not converged"
        log.say(f"C {fit.C:g}: {scored}, {fit.fit_s:.1f} s{late}")
        yield fit
        if stop():
            raise Stopped("stopped while fitting; the same command reads the features again and fits anew")


def _measure(job: Job, layer: Layer, features_ND: Array, labels_N: Labels) -> Metrics:
    counts = Counts(job.plan.num_classes, torch.device("cpu"))
    scores_NK, labels = torch.from_numpy(layer.scores(features_ND)), torch.from_numpy(labels_N)
    counts.add(scores_NK, labels, F.cross_entropy(scores_NK, labels, reduction="none"), torch.ones_like(labels))
    return counts.metrics(job.classes)


def _build_summary(
    job: Job, numbers: dict[str, Any], fits: list[Fit], best: Fit, metrics: dict[str, Metrics]
) -> Summary:
    return {
        "name": job.recipe.run.name,
        "kind": "probe",
        "status": "done",
        "C": best.C,
        "tried": [fit.to_json() for fit in fits],
        "fit_s": round(sum(fit.fit_s for fit in fits), 3),
        **numbers,
        "world_size": job.plan.world_size,
        "device": job.strategy.device.type,
        "precision": job.recipe.strategy.precision,
        **metrics,
    }


def _write_summary(job: Job, summary: Summary) -> None:
    write_atomically(job.run.path / SUMMARY_NAME, f"{render_json(summary, indent=1)}\n".encode())


def probe_rows(summary: Summary, folder: str) -> list[Row]:
    """The final table."""
    chosen = f"best of {len(summary['tried'])} on valid" if "valid" in summary else "no valid split to choose it by"
    rows = [("status", summary["status"]), ("C", f"{summary['C']:g}, {chosen}")]
    for split in ("train", "valid", "test"):
        if split in summary:
            rows += metrics_rows(split, summary[split])
    num_computed = sum(summary["num_computed"].values())
    return [
        *rows,
        ("features", f"{summary['num_features']:,} an image, {num_computed:,} images computed"),
        ("time", f"features {summary['features_s']:,.1f} s, fits {summary['fit_s']:,.1f} s"),
        ("folder", folder),
    ]


def _fail(job: Job, log: RunLog, error: BaseException) -> None:
    """Write in the folder how it ended; the error itself is raised on to the user."""
    status = "preempted" if isinstance(error, Stopped) else "failed"
    LOGGER.error(status, exc_info=error)
    if not job.strategy.world.is_first:
        return
    try:
        log.event(0, status, f"{type(error).__name__}: {error}")
        _write_summary(job, {"name": job.recipe.run.name, "kind": "probe", "status": status})
    except OSError as second:
        LOGGER.error("could not be written down: %s", second)
