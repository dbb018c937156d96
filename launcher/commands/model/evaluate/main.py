"""`launcher evaluate RUN`: evaluate a run's model on a split, on any number of processes."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing, nullcontext, suppress
from pathlib import Path

from launcher.checkpoint.network_spec import SPEC_NAME
from launcher.commands.model.evaluate.data import EvalData, open_eval_data
from launcher.commands.model.evaluate.predictions import Collector
from launcher.commands.model.evaluate.report import Evaluation, evaluation_rows, write_evaluation
from launcher.commands.model.infer import TEST_TRANSFORMS, build_eval_strategy, build_feed
from launcher.commands.model.load import TrainedModel, choose_folder, load_trained, read_run_spec
from launcher.commands.model.options import EvaluateOptions
from launcher.data.bad_samples import DeferBadSample, build_bad_sample_policy
from launcher.data.feed import ImageFeed
from launcher.distributed.signals import follow_launcher
from launcher.errors import EXIT_DONE, RunError, Stopped
from launcher.models.loss import build_loss
from launcher.recipe.url import is_url
from launcher.run.console import Console
from launcher.train.evaluate import EvalSplit, evaluate
from shards.console import ConsoleProgress
from shards.progress import SILENT

MAX_BATCH = 128
"""Images per forward pass where the recipe sets none: fewer gain nothing, more may not fit beside other work."""


def evaluate_run(run: Path, options: EvaluateOptions) -> int:
    """Evaluate, write the files, print a table, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can fix.
    """
    follow_launcher()
    recipe = read_run_spec(run, options.checkpoint).recipe
    strategy = build_eval_strategy(options.device, recipe)
    trained = load_trained(run, options.checkpoint, strategy)
    transform = TEST_TRANSFORMS[options.transform]
    trained.model.register_forward_pre_hook(lambda _model, inputs: (transform(*inputs),))
    data = open_eval_data(options.data, options.split, trained.spec, strategy)
    folder = options.output or choose_folder(run, _name_folder(run, options))
    strategy.comm.run_on_rank0(lambda: _check_folder(folder))
    bad_samples = DeferBadSample(build_bad_sample_policy(recipe.data))
    feed = build_feed(data.reader, trained.augment, strategy, bad_samples)
    with closing(feed.loader):
        evaluation = _evaluate(trained, data, options, feed, bad_samples)
        notes = strategy.comm.run_on_rank0(lambda: write_evaluation(evaluation, feed, folder))
    if strategy.world.is_first:
        console = Console()
        for note in notes:
            console.say(f"note: {note}")
        console.table(str(recipe.run.name), evaluation_rows(evaluation, folder))
    strategy.comm.close()
    return EXIT_DONE


def _evaluate(
    trained: TrainedModel, data: EvalData, options: EvaluateOptions, feed: ImageFeed, bad_samples: DeferBadSample
) -> Evaluation:
    """Every image of the split once, by all ranks together. Raise UserError on all ranks when one cannot read an image
    that the recipe does not let it skip.
    """
    spec, strategy, comm, num_images = trained.spec, feed.strategy, feed.strategy.comm, data.reader.num_images
    may_skip, train = spec.recipe.data.on_error == "skip", spec.recipe.train
    # Images per forward pass: the same on any number of ranks, so that results are rounded the same.
    batch = train.eval_batch or train.micro_batch or min(train.global_batch, MAX_BATCH)
    split = EvalSplit(options.split, num_images, len(spec.classes), batch, may_skip)
    model, loss = trained.model, build_loss(spec.recipe.loss, training=False)
    with ConsoleProgress() if comm.world.is_first else nullcontext(SILENT) as progress:

        def show(num_mine: int) -> None:
            """Assume that the other ranks are as far."""
            progress.update(f"evaluate {split.name}", min(num_mine * comm.world.size, num_images), num_images)

        collector = Collector(show)
        with suppress(Stopped):  # raised on all ranks for the error that `raise_on_all` raises next
            counts = evaluate(model, feed, loss, split, strategy, lambda: bad_samples.error is not None, collector.add)
        comm.raise_on_all(bad_samples.error)
    predictions, names = collector.gather(comm, data.reader.name_of)
    skipped = [message for each in comm.all_gather_object(bad_samples.take_new()) for message in each.values()]
    metrics = counts.metrics(spec.classes) | {"loss": predictions.mean_loss, "ece": predictions.ece}
    metadata = {
        "checkpoint": str(trained.checkpoint),
        "split": options.split,
        "data": data.location,
        "data_sha256": data.sha256,
        "transform": options.transform,
        "device": strategy.device.type,
        "precision": strategy.precision,
        "world_size": strategy.world.size,
        "skipped_samples": skipped,
    }
    return Evaluation(metadata, metrics, counts.confusion_KK.cpu().numpy(), predictions, names, spec.classes)


def _name_folder(run: Path, options: EvaluateOptions) -> str:
    """`evaluations/test-best`, with the other options in its name; data of one name at two locations are told apart."""
    parts = [options.split, run.resolve().name if (run / SPEC_NAME).exists() else options.checkpoint]
    if options.data is not None:
        location = options.data if is_url(options.data) else str(Path(options.data).resolve())
        parts += [location.rstrip("/").rpartition("/")[2], hashlib.sha256(location.encode()).hexdigest()[:6]]
    if options.transform != "none":
        parts.append(options.transform)
    return f"evaluations/{'-'.join(parts)}"


def _check_folder(folder: Path) -> None:
    """Raise RunError when files cannot be written there. Called before anything is computed; creates nothing."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists() or each.is_symlink())
    if not existing.is_dir():
        raise RunError(f"{existing}: not a folder; choose another with --output")
    if not os.access(existing, os.W_OK):
        raise RunError(f"{existing}: you may not write there; change its permissions, or choose another with --output")
