"""`launcher probe RECIPE`: logistic regression on the features of a frozen backbone, which are its head's input.

N images, D features, K classes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import torch
import torch.nn.functional as F

from launcher.checkpoint.snapshot import save_weights
from launcher.checkpoint.state import TrainState
from launcher.commands.recipe.probe.features import Extracted, extract, largest_difference, put_in_head
from launcher.commands.recipe.probe.regression import Array, Fit, Labels, Layer, choose_best, fit_grid
from launcher.distributed.comm import ShouldStop
from launcher.distributed.signals import follow_launcher, install_signal_handlers
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import read_world
from launcher.errors import EXIT_DONE, Stopped, UserError
from launcher.metrics.counts import Counts
from launcher.metrics.names import Metrics, show_metric
from launcher.recipe.fields import with_values
from launcher.recipe.lock import write_lock
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.resolve import probe_recipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console, Row
from launcher.run.folder import RunFolder, open_run, probe_folder
from launcher.run.rank_log import LOGGER, log_warnings
from launcher.run.run_log import RunLog
from launcher.train.inputs import build_inputs
from launcher.train.job import Job, build_state, open_job, open_run_log
from launcher.train.prepare import complete_recipe
from launcher.train.summary import Summary, metrics_rows, write_summary

LARGEST_DIFFERENCE = 0.01
"""Difference between a probability of the saved network and of the regression above which a note is shown."""

Data = dict[str, tuple[Array, Labels]]
"""Split -> features_ND and labels_N."""


def probe(loaded: LoadedRecipe) -> int:
    """Read or compute the features, fit, evaluate, save, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can fix.
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
            extracted = extract(job, state, inputs, log)
            # The other ranks wait over gloo, for as long as a fit may take.
            strategy.comm.run_on_rank0(lambda: _fit_and_save(job, state, extracted, log, stop))
            inputs.skipped.record(strategy.comm, log, 0)
        except BaseException as error:
            _fail(job, log, error)
            raise
    strategy.comm.close()
    return EXIT_DONE


def _open_folder(recipe: Recipe) -> RunFolder:
    """A new folder in `runs/<name>/`: `run.dir` is for the recipe's training."""
    return open_run(with_values(recipe, {"run.dir": str(probe_folder(recipe))}))


def _fit_and_save(job: Job, state: TrainState, extracted: Extracted, log: RunLog, stop: ShouldStop) -> None:
    """The work of rank 0: fit the regression, evaluate it, make it the network's head, write everything down."""
    head_input, splits = extracted.head_input, extracted.splits
    data = {name: split.read(head_input) for name, split in splits.items()}
    num_features = data["train"][0].shape[1]
    for name, (features_ND, _) in data.items():
        numbers = {"num_computed": extracted.num_computed[name], "num_features": num_features}
        log.event(0, "features", split=name, num_images=len(features_ND), **numbers)
    _check_classes(job, data["train"][1])
    fits = list(_fit_all(data, log, stop))
    best = choose_best(fits)
    metrics = {name: _evaluate(job, best.layer, *each) for name, each in data.items()}
    for name, each in metrics.items():
        log.evaluation(0, name, each, weights_step=0, show=False, C=best.C)
    put_in_head(head_input, best.layer, splits.values())
    difference = largest_difference(head_input, best.layer, splits["train"])
    if not difference <= LARGEST_DIFFERENCE:
        log.say(f"note: probabilities of the saved network differ by up to {difference:.2g} from the regression's")
    save_weights(job.run.checkpoints, state)
    log.checkpoint(0, name="best", largest_difference=difference)
    summary = {
        "name": job.recipe.run.name,
        "kind": "probe",
        "status": "done",
        "C": best.C,
        "tried": [fit.to_json() for fit in fits],
        "fit_s": round(sum(fit.fit_s for fit in fits), 3),
        "world_size": job.plan.world_size,
        "device": job.strategy.device.type,
        "precision": job.recipe.strategy.precision,
        "num_features": num_features,
        "num_computed": extracted.num_computed,
        "largest_difference": difference,
        "features_s": round(extracted.seconds, 3),
        **metrics,
    }
    write_summary(job, summary)
    log.event(0, "done")
    log.table(str(job.recipe.run.name), _summary_rows(summary, str(job.run.path)))


def _check_classes(job: Job, labels_N: Labels) -> None:
    counts = np.bincount(labels_N, minlength=len(job.classes))
    if missing := [name for name, num in zip(job.classes, counts, strict=True) if not num]:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"data: {len(missing)} classes have no training images ({names}); list the others in data.classes"
        )


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


def _evaluate(job: Job, layer: Layer, features_ND: Array, labels_N: Labels) -> Metrics:
    counts = Counts(job.plan.num_classes, torch.device("cpu"))
    scores_NK, labels = torch.from_numpy(layer.scores(features_ND)), torch.from_numpy(labels_N)
    counts.add(scores_NK, labels, F.cross_entropy(scores_NK, labels, reduction="none"), torch.ones_like(labels))
    return counts.metrics(job.classes)


def _summary_rows(summary: Summary, folder: str) -> list[Row]:
    """Rows of the final table."""
    chosen = f"best of {len(summary['tried'])} on valid" if "valid" in summary else "no valid split to choose it by"
    num_computed = sum(summary["num_computed"].values())
    shown = [split for split in ("train", "valid", "test") if split in summary]
    return [
        ("status", summary["status"]),
        ("C", f"{summary['C']:g}, {chosen}"),
        *(row for split in shown for row in metrics_rows(split, summary[split])),
        ("features", f"{summary['num_features']:,} per image, computed for {num_computed:,} images"),
        ("time", f"features {summary['features_s']:,.1f} s, fits {summary['fit_s']:,.1f} s"),
        ("folder", folder),
    ]


def _fail(job: Job, log: RunLog, error: BaseException) -> None:
    """Write the error in the run folder. The caller raises it."""
    status = "preempted" if isinstance(error, Stopped) else "failed"
    LOGGER.error(status, exc_info=error)
    if not job.strategy.world.is_first:
        return
    try:
        log.event(0, status, f"{type(error).__name__}: {error}")
        write_summary(job, {"name": job.recipe.run.name, "kind": "probe", "status": status})
    except OSError as second:
        LOGGER.error("cannot be written to the run folder: %s", second)
