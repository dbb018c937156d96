"""`launcher show RECIPE`: training images beside what augmentation makes of them, as the network will see them.

N images, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from torch import Tensor

from launcher.augment.mix import build_mix
from launcher.augment.pipeline import build_augment, find_min_side
from launcher.data.decode import decode_image
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader
from launcher.data.order import Ids, Order, build_order
from launcher.data.prepare import open_folder, prepare_data
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.facts import output_size
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Recipe, Strategy
from launcher.run.console import Console
from launcher.run.pictures import Captioned, find_cell, to_pixels, write_sheet
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import Manifest

MAX_PIXELS = 2**27
"""Of the file: 400 MB before compression."""


def show(loaded: LoadedRecipe, images: int, views: int, output: Path) -> int:
    """Write a PNG: a row for each of the first `images` of training's first epoch, with its views of the first `views`
    epochs.

    Raise UserError or ShardsError when recipe, data or file are not to be had.
    """
    _check_options(images, views, output)
    recipe = complete_recipe(loaded, lambda note: None)
    manifest = prepare_data(recipe.data, World())
    plan = plan_run(loaded, recipe, 1, manifest)
    if images > plan.num_train:
        raise UserError(f"--images {images}: there are {plan.num_train} training images")
    cell = _cell(recipe)
    if (num_pixels := images * (views + 1) * cell[0] * cell[1]) > MAX_PIXELS:
        raise UserError(
            f"--images {images} --views {views}: {num_pixels / 1e6:,.0f} million pixels, {MAX_PIXELS / 1e6:,.0f} are "
            "allowed; ask for fewer"
        )
    order = build_order(plan, manifest, recipe.run.seed)
    ids_N = order.visits(0)[:images]
    reader = ShardReader(open_folder(recipe.data, manifest, World()), manifest, "train")
    columns = [
        _read_originals(reader, ids_N, manifest.classes),
        *_augment(recipe, manifest, reader, order, ids_N, views),
    ]
    try:
        write_sheet(list(zip(*columns, strict=True)), cell, output)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); name another file") from None
    Console().say(f"{output}: {images} training images, {views} views of each")
    return EXIT_DONE


def _check_options(images: int, views: int, output: Path) -> None:
    for name, number in (("images", images), ("views", views)):
        if number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")
    if output.suffix.lower() != ".png":
        raise UserError(f"--output {output}: must end in .png")


def _cell(recipe: Recipe) -> tuple[int, int]:
    """Height and width of a view on the sheet."""
    size = output_size(recipe.augment.train)
    assert size is not None, "a recipe whose images have different sizes is refused"
    return find_cell(size)


def _read_originals(reader: ShardReader, ids_N: Ids, classes: tuple[str, ...]) -> list[Captioned]:
    samples = [reader.read(int(i)) for i in ids_N]
    return [(classes[sample.label], decode_image(sample.content, sample.place)) for sample in samples]


def _augment(
    recipe: Recipe, manifest: Manifest, reader: ShardReader, order: Order, ids_N: Ids, views: int
) -> Iterator[list[Captioned]]:
    """The images in each of the first epochs, by the way that training goes."""
    mean, std = recipe.augment.normalisation(manifest.mean, manifest.std)
    augment = build_augment(recipe.augment.train, mean, std)
    mix = build_mix(recipe.augment, len(manifest.classes))
    seed = recipe.run.seed
    strategy = build_strategy(Strategy(device="cpu"), World(), seed, deterministic=False)
    with closing(Loader(reader, 0, strategy.device, find_min_side(recipe.augment.train))) as loader:
        feed = ImageFeed(loader, augment, strategy, seed, recipe.augment.views, None, mix)
        for epoch in range(views):
            ids_B, rows_N = find_pairs(order.visits(epoch), ids_N)
            [examples] = feed.batches([(epoch, ids_B)])
            assert examples.images_BCHW is not None
            pixels = to_pixels(examples.images_BCHW[rows_N], augment.mean, augment.std)
            if mix is None:
                captions = [f"epoch {epoch + 1}"] * len(ids_N)
            else:
                captions = [_describe_shares(shares_K, manifest.classes) for shares_K in examples.targets[rows_N]]
            yield list(zip(captions, pixels, strict=True))


def find_pairs(visits: Ids, ids_N: Ids) -> tuple[Ids, Ids]:
    """The pairs that images are in when an epoch visits them in this order, some perhaps twice: mixing needs both.

    Give ids_B, pair after pair, and the row of each image in it.
    """
    by_id = np.argsort(visits, kind="stable")
    places_N = by_id[np.searchsorted(visits, ids_N, sorter=by_id)]
    pairs_N2 = places_N[:, None] // 2 * 2 + np.arange(2)
    return visits[pairs_N2.reshape(-1) % len(visits)], 2 * np.arange(len(ids_N)) + places_N % 2


def _describe_shares(shares_K: Tensor, classes: tuple[str, ...]) -> str:
    """`70 % ants, 30 % bees`."""
    shares = sorted(zip(shares_K.tolist(), classes, strict=True), reverse=True)[:2]
    return ", ".join(f"{share:.0%} {name}" for share, name in shares if share >= 0.005)
