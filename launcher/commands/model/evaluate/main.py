"""`launcher evaluate RUN`: what a run's network is worth on a split, on any number of processes."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoint.network_spec import SPEC_NAME
from launcher.commands.model.evaluate.predictions import Collector
from launcher.commands.model.evaluate.report import Evaluation, evaluation_rows, write_evaluation
from launcher.commands.model.evaluate.source import DEFAULT_SPLIT, EvalData, open_eval_data
from launcher.commands.model.infer import (
    Device,
    TestTransform,
    TransformedModel,
    build_eval_strategy,
    build_feed,
    choose_test_transform,
)
from launcher.commands.model.load import TrainedModel, choose_folder, load_trained, read_run_spec
from launcher.data.bad_samples import DeferBadSample, build_bad_sample_policy
from launcher.data.feed import ImageFeed
from launcher.distributed.signals import follow_launcher
from launcher.distributed.strategy import Strategy
from launcher.distributed.world import read_world
from launcher.errors import EXIT_DONE, RunError, Stopped
from launcher.models.loss import build_loss
from launcher.recipe.schema import Train
from launcher.recipe.url import is_url
from launcher.run.console import Console
from launcher.train.evaluate import EvalSplit, evaluate
from shards.console import ConsoleProgress
from shards.progress import SILENT

FOLDER = "evaluations"
MOST_IN_A_BATCH = 128
"""Images, where the recipe says nothing: fewer than that gain nothing, more may not fit beside other work."""


@dataclass(frozen=True, slots=True)
class Options:
    """As `launcher evaluate` takes them. `data`: None: the run's own. `output`: None: in the run's folder."""

    split: str = DEFAULT_SPLIT
    data: str | None = None
    checkpoint: str = "best"
    transform: str = "none"
    output: Path | None = None
    device: Device = "auto"


def evaluate_run(run: Path, options: Options) -> int:
    """Judge, write down, show, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can mend.
    """
    follow_launcher()
    world, transform = read_world(os.environ), choose_test_transform(options.transform)
    recipe = read_run_spec(run, options.checkpoint).recipe
    strategy = build_eval_strategy(recipe.strategy, options.device, world, recipe.run.seed, recipe.run.deterministic)
    trained = load_trained(run, options.checkpoint, strategy)
    data = open_eval_data(options.data, options.split, trained.spec, strategy)
    folder = options.output or choose_folder(run, _name_folder(run, options))
    strategy.comm.run_on_rank0(lambda: _check_folder(folder))
    bad_samples = DeferBadSample(build_bad_sample_policy(recipe.data))
    feed = build_feed(data.reader, trained.augment, strategy, bad_samples)
    with closing(feed.loader):
        evaluation = _evaluate(trained, data, options, transform, feed, bad_samples, strategy)
        notes = strategy.comm.run_on_rank0(lambda: write_evaluation(evaluation, feed, transform, folder))
    if world.is_first:
        console = Console()
        for note in notes:
            console.say(f"note: {note}")
        console.table(str(recipe.run.name), evaluation_rows(evaluation, folder))
    strategy.comm.close()
    return EXIT_DONE


def _evaluate(
    trained: TrainedModel,
    data: EvalData,
    options: Options,
    transform: TestTransform,
    feed: ImageFeed,
    bad_samples: DeferBadSample,
    strategy: Strategy,
) -> Evaluation:
    """Every image of the split once, by all ranks together. Raise UserError on all of them for what one cannot read."""
    spec, comm, num_images = trained.spec, strategy.comm, data.reader.num_images
    may_skip = spec.recipe.data.on_error == "skip"
    batch = _count_batch(spec.recipe.train)
    split = EvalSplit(options.split, num_images, len(spec.classes), batch, may_skip)
    model = TransformedModel(trained.network.model, transform)
    loss = build_loss(spec.recipe.loss, training=False)
    with ConsoleProgress() if comm.world.is_first else nullcontext(SILENT) as progress:

        def show(num_mine: int) -> None:
            """The other ranks are as far."""
            progress.update(f"evaluate {split.name}", min(num_mine * comm.world.size, num_images), num_images)

        collector = Collector(show)
        with suppress(Stopped):  # of all ranks together, for the error that is raised next
            counts = evaluate(
                *(model, feed, loss, split, strategy),
                should_stop=lambda: bad_samples.error is not None,
                on_batch=collector.add,
            )
        comm.raise_on_all(bad_samples.error)
    predictions, names = collector.gather(comm, data.reader.name_of)
    skipped = [message for each in comm.all_gather_object(bad_samples.take_new()) for message in each.values()]
    metrics = counts.metrics(spec.classes)
    metrics |= {"loss": predictions.mean_loss, "ece": predictions.calibration_error}
    metadata = {**_describe(trained, data, options, strategy), "skipped_samples": skipped}
    return Evaluation(metadata, metrics, counts.confusion_KK.cpu().numpy(), predictions, names, spec.classes)


def _describe(trained: TrainedModel, data: EvalData, options: Options, strategy: Strategy) -> dict[str, Any]:
    """Of what, on what and how the figures are: `launcher compare` pairs evaluations by it."""
    return {
        "checkpoint": str(trained.checkpoint),
        "split": options.split,
        "data": data.place,
        "data_sha256": data.sha256,
        "transform": options.transform,
        "device": strategy.device.type,
        "precision": strategy.precision,
        "world_size": strategy.world.size,
    }


def _count_batch(train: Train) -> int:
    """Images of a forward pass: of any number of processes the same, so that images are rounded the same."""
    return train.eval_batch or train.micro_batch or min(train.global_batch, MOST_IN_A_BATCH)


def _name_folder(run: Path, options: Options) -> str:
    """`evaluations/test-best`, with what else was wished in its name; data of one name at two places are two."""
    which = run.resolve().name if (run / SPEC_NAME).exists() else options.checkpoint
    data = [] if options.data is None else [_name_data(options.data)]
    transform = [] if options.transform == "none" else [options.transform]
    return f"{FOLDER}/{'-'.join([options.split, which, *data, *transform])}"


def _name_data(data: str) -> str:
    place = data if is_url(data) else str(Path(data).resolve())
    return f"{place.rstrip('/').rpartition('/')[2]}-{hashlib.sha256(place.encode()).hexdigest()[:6]}"


def _check_folder(folder: Path) -> None:
    """Before anything is computed. Raise RunError when it is none and cannot be made; made it is with what is in it."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists() or each.is_symlink())
    if not there.is_dir():
        raise RunError(f"{there}: is no folder; name another with --output")
    if not os.access(there, os.W_OK):
        raise RunError(f"{there}: cannot be written; see to who may write it, or name another with --output")
