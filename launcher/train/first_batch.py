"""`pictures/augmented.png`: the first images of a training as augmentation has made them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from launcher.data.feed import Examples
from launcher.errors import UserError
from launcher.run.image_grid import GRID_IMAGES, write_grid
from launcher.run.run_log import RunLog
from launcher.train.inputs import Inputs
from launcher.train.job import Job


def draw_first(job: Job, inputs: Inputs, batches: Iterator[Examples], log: RunLog) -> Iterator[Examples]:
    """The same batches, from the first of the training on; rank 0 draws the first."""
    first = next(batches)
    if job.strategy.world.is_first:
        _draw(job, inputs, first, log)
    return itertools.chain([first], batches)


def _draw(job: Job, inputs: Inputs, examples: Examples, log: RunLog) -> None:
    picture, feed = job.run.pictures / "augmented.png", inputs.image_feeds["train"]
    if examples.images_BCHW is None:  # features were read: the images are read for the picture alone
        try:
            [examples] = feed.batches([(job.plan.epoch(1), examples.ids_B[:GRID_IMAGES])])
        except UserError as error:  # features are enough to train: only the picture is lacking
            log.note(1, f"{picture.name} could not be drawn: {error}")
            return
    assert examples.images_BCHW is not None
    write_grid(examples.images_BCHW, feed.augment.mean, feed.augment.std, picture)
    log.event(1, "picture", picture=picture.stem)
