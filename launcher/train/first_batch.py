"""`pictures/augmented.png`: the first images of a training as augmentation has made them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import Tensor

from launcher.data.feed import Examples
from launcher.data.ids import Ids
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
    picture, augment = job.run.pictures / "augmented.png", inputs.feeds["train"].augment
    try:
        images_BCHW = examples.images_BCHW
        if images_BCHW is None:
            images_BCHW = _read_images(job, inputs, examples.ids_B)
    except UserError as error:  # features are enough to train: only the picture is lacking
        log.note(1, f"{picture.name} could not be drawn: {error}")
        return
    write_grid(images_BCHW, augment.mean, augment.std, picture)
    log.event(1, "picture", picture=picture.stem)


def _read_images(job: Job, inputs: Inputs, ids_B: Ids) -> Tensor:
    """images_BCHW, as many as the picture has, where features were read in their place."""
    [examples] = inputs.feeds["train"].batches([(job.plan.epoch(1), ids_B[:GRID_IMAGES])])
    assert examples.images_BCHW is not None
    return examples.images_BCHW
