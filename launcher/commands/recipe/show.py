"""`launcher show RECIPE`: training images beside their augmented views, as the network will see them.

N images, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from launcher.augment.execute import build_augment
from launcher.augment.mix import build_mix
from launcher.augment.sizes import find_min_side
from launcher.commands.recipe.options import ShowOptions
from launcher.data.decode import decode_image
from launcher.data.feed import ImageFeed
from launcher.data.ids import Ids
from launcher.data.loader import Loader
from launcher.data.order import Order, build_order
from launcher.data.prepare import open_folder, prepare_data
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.facts import train_size
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Recipe, Strategy
from launcher.run.console import Console
from launcher.run.image_grid import Captioned, find_cell, to_pixels, write_sheet
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import Manifest

MAX_PIXELS = 2**27
"""Limit of the file: 400 MB before compression."""


def show(loaded: LoadedRecipe, options: ShowOptions) -> int:
    """Write a PNG with a row for each image: the original and its augmented views.

    Raise UserError or ShardsError when the recipe, the data or an option is wrong, or the file cannot be written.
    """
    options.check()
    recipe = complete_recipe(loaded, lambda note: None)
    manifest = prepare_data(recipe.data, World())
    plan = plan_run(loaded, recipe, 1, manifest)
    if options.images > plan.num_train:
        raise UserError(f"--images {options.images}: there are {plan.num_train} training images")
    cell = find_cell(train_size(recipe))
    num_pixels = options.images * (options.views + 1) * cell[0] * cell[1]
    if num_pixels > MAX_PIXELS:
        raise UserError(
            f"--images {options.images} --views {options.views}: {num_pixels / 1e6:,.0f} million pixels, "
            f"{MAX_PIXELS / 1e6:,.0f} are allowed; ask for fewer"
        )
    reader = ShardReader(open_folder(recipe.data, manifest, World()), manifest, "train")
    order = build_order(plan, manifest, recipe.run.seed)
    ids_N = order.visits(0)[: options.images]
    samples = [reader.read(i) for i in ids_N.tolist()]
    originals = [(manifest.classes[each.label], decode_image(each.content, each.place)) for each in samples]
    columns = [originals, *_augment(recipe, manifest, order, reader, ids_N, options.views)]
    try:
        write_sheet(list(zip(*columns, strict=True)), cell, options.output)
    except OSError as error:
        what = f"--output {options.output}: cannot be written ({error.strerror})"
        raise UserError(f"{what}; choose another file") from None
    Console().say(f"{options.output}: {options.images} training images, {options.views} views of each")
    return EXIT_DONE


def _augment(
    recipe: Recipe, manifest: Manifest, order: Order, reader: ShardReader, ids_N: Ids, views: int
) -> Iterator[list[Captioned]]:
    """The images as each of the first `views` epochs augments them, by the code that training runs."""
    ops, seed = recipe.augment.train, recipe.run.seed
    augment = build_augment(ops, *recipe.augment.normalisation(manifest.mean, manifest.std))
    mix = build_mix(recipe.augment, len(manifest.classes))
    strategy = build_strategy(Strategy(device="cpu"), World(), seed, deterministic=False)
    loader = Loader(reader, 0, strategy.device, find_min_side(ops))  # without threads: there is nothing to close
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
    """The pairs that the images are in when an epoch visits them in this order: mixing needs both images of a pair.

    Return ids_B, one pair per image (so a pair may be there twice), and the row of each image in it.
    """
    by_id = np.argsort(visits, kind="stable")
    positions_N = by_id[np.searchsorted(visits, ids_N, sorter=by_id)]
    pairs_N2 = positions_N[:, None] // 2 * 2 + np.arange(2)
    return visits[pairs_N2.reshape(-1) % len(visits)], 2 * np.arange(len(ids_N)) + positions_N % 2


def _describe_shares(shares_K: Tensor, classes: tuple[str, ...]) -> str:
    """`70% ants, 30% bees`."""
    shares = sorted(zip(shares_K.tolist(), classes, strict=True), reverse=True)[:2]
    return ", ".join(f"{share:.0%} {name}" for share, name in shares if share >= 0.005)
