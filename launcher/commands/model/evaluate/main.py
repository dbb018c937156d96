"""`launcher evaluate RUN`: what a run's network is worth on a split, on any number of processes."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.checkpoint.network_spec import CARD_NAME
from launcher.commands.model.evaluate.predictions import Collector
from launcher.commands.model.evaluate.report import Evaluation, evaluation_rows, write_evaluation
from launcher.commands.model.evaluate.source import DEFAULT_SPLIT, Source, open_source
from launcher.commands.model.infer import Device, Turn, Turned, build_eval_strategy, build_feed, choose_turn
from launcher.commands.model.load import Trained, choose_folder, open_trained, read_run_card
from launcher.data.bad_samples import HeldBack, build_damage
from launcher.data.feed import ImageFeed
from launcher.distributed.signals import follow_launcher
from launcher.distributed.strategy import Strategy
from launcher.distributed.world import read_world
from launcher.errors import EXIT_DONE, RunError, Stopped
from launcher.models.loss import build_loss
from launcher.recipe.schema import Train
from launcher.recipe.url import is_url
from launcher.run.console import Console
from launcher.train.evaluate import Portions, evaluate
from shards.console import ConsoleProgress
from shards.progress import SILENT

FOLDER = "evaluations"
MOST_IN_A_BATCH = 128
"""Images, where the recipe says nothing: fewer than that gain nothing, more may not fit beside other work."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """As `launcher evaluate` takes them. `data`: None: the run's own. `output`: None: in the run's folder."""

    split: str = DEFAULT_SPLIT
    data: str | None = None
    checkpoint: str = "best"
    transform: str = "none"
    output: Path | None = None
    device: Device = "auto"


def evaluate_run(run: Path, wishes: Wishes) -> int:
    """Judge, write down, show, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can mend.
    """
    follow_launcher()
    world, turn = read_world(os.environ), choose_turn(wishes.transform)
    recipe = read_run_card(run, wishes.checkpoint).recipe
    strategy = build_eval_strategy(recipe.strategy, wishes.device, world, recipe.run.seed, recipe.run.deterministic)
    trained = open_trained(run, wishes.checkpoint, strategy)
    source = open_source(wishes.data, wishes.split, trained.card, strategy)
    folder = wishes.output or choose_folder(run, _name_folder(run, wishes))
    strategy.on_first(lambda: _check_folder(folder))
    damage = HeldBack(build_damage(recipe.data))
    feed = build_feed(source.reader, trained.augment, strategy, damage)
    with closing(feed.loader):
        evaluation = _evaluate(trained, source, wishes, turn, feed, damage, strategy)
        notes = strategy.on_first(lambda: write_evaluation(evaluation, feed, turn, folder))
    if world.is_first:
        console = Console(1, 1)
        for note in notes:
            console.say(f"note: {note}")
        console.table(str(recipe.run.name), evaluation_rows(evaluation, folder))
    strategy.close()
    return EXIT_DONE


def _evaluate(
    trained: Trained,
    source: Source,
    wishes: Wishes,
    turn: Turn,
    feed: ImageFeed,
    damage: HeldBack,
    strategy: Strategy,
) -> Evaluation:
    """Every image of the split once, by all processes together. Raise UserError on all of them for what one cannot
    read."""
    card, split, num_images = trained.card, wishes.split, source.reader.num_images
    sizes = Portions(len(card.classes), {split: num_images}, _count_batch(card.recipe.train), strategy.world.size)
    model = Turned(trained.network.model, turn)
    loss = build_loss(card.recipe.loss, training=False)
    can_leave_out = card.recipe.data.on_error == "skip"
    with ConsoleProgress() if strategy.world.is_first else nullcontext(SILENT) as progress:

        def tell(num_mine: int) -> None:
            """The others are as far."""
            progress.update(f"evaluate {split}", min(num_mine * strategy.world.size, num_images), num_images)

        collector = Collector(tell)
        with suppress(Stopped):  # of all processes together, for what is raised next
            counts = evaluate(
                *(model, split, feed, loss, sizes, strategy),
                should_stop=lambda: damage.error is not None,
                can_leave_out=can_leave_out,
                note=collector.note,
            )
        strategy.fail_together(damage.error)
    predictions, names = collector.gather(strategy, source.reader.name_of)
    left_out = [message for each in strategy.gather(feed.loader.damage.take_new()) for message in each.values()]
    figures = counts.figures(card.classes)
    figures |= {"loss": predictions.mean_loss, "calibration_error_frac": predictions.calibration_error}
    facts = {**_describe(trained, source, wishes, strategy), "left_out": left_out}
    return Evaluation(facts, figures, counts.confusion_KK.cpu().numpy(), predictions, names, card.classes)


def _describe(trained: Trained, source: Source, wishes: Wishes, strategy: Strategy) -> dict[str, Any]:
    """Of what, on what and how the figures are: `launcher compare` pairs evaluations by it."""
    return {
        "checkpoint": str(trained.checkpoint),
        "split": wishes.split,
        "data": source.place,
        "data_sha256": source.sha256,
        "transform": wishes.transform,
        "device": strategy.device.type,
        "precision": strategy.accelerator.mixed_precision,
        "world_size": strategy.world.size,
    }


def _count_batch(train: Train) -> int:
    """Images of a forward pass: of any number of processes the same, so that images are rounded the same."""
    return train.eval_batch or train.micro_batch or min(train.global_batch, MOST_IN_A_BATCH)


def _name_folder(run: Path, wishes: Wishes) -> str:
    """`evaluations/test-best`, with what else was wished in its name; data of one name at two places are two."""
    which = run.resolve().name if (run / CARD_NAME).exists() else wishes.checkpoint
    data = [] if wishes.data is None else [_name_data(wishes.data)]
    transform = [] if wishes.transform == "none" else [wishes.transform]
    return f"{FOLDER}/{'-'.join([wishes.split, which, *data, *transform])}"


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
