"""Contradictions between keys that are valid one by one, and keys that have no effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import pairwise

from launcher.recipe.augment import EvalOp, TrainOp
from launcher.recipe.augment_pixels import PIXEL_OPS
from launcher.recipe.backbone import FreezeSchedule
from launcher.recipe.facts import OWN_NETWORKS, brings_transform, output_size
from launcher.recipe.optim import Sgd
from launcher.recipe.problem import Problem, largest_divisor
from launcher.recipe.schema import Bce, Recipe, Share, Split
from launcher.recipe.url import has_credentials, is_url
from shards.manifest import ShardsError
from shards.sources import check_source_name

SIDES = {"avatar_cnn": 64, "inception_v3": 299, "lenet": 32}
"""Pixels per side of the only image size that a network takes."""

USUAL_EVAL = "{op: resize, size: 256}, {op: center_crop, size: 224}"
"""The eval operations of most pretrained weights."""

PACKING = "data.root data.classes data.split data.split_seed data.max_side data.images_per_shard data.download"
"""Keys that only packing uses."""


def find_contradictions(recipe: Recipe) -> list[Problem]:
    """Keys without effect, then contradictions in the order of the sections."""
    checks = (_without_effect, _in_backbone, _in_data, _in_augment, _in_training)
    return [problem for check in checks for problem in check(recipe)]


def _without_effect(recipe: Recipe) -> Iterator[Problem]:
    head, data, optim = recipe.backbone.head, recipe.data, recipe.optim
    is_local = data.dir is None or not is_url(data.dir)
    is_torchvision = data.source is None or data.source.startswith("torchvision:")
    only_head = recipe.backbone.freeze == "backbone"
    has_no_hidden = head != "keep" and not head.hidden
    has_no_momentum = isinstance(optim, Sgd) and optim.momentum == 0
    rules = (  # when, which keys have no effect, why, and which keys decide that
        (has_no_hidden, "backbone.head.activation", "without hidden layers", "backbone.head.hidden"),
        (is_local, "data.remote_cache data.remote_cache_gib data.remote_tries", "on a local folder", "data.dir"),
        (data.source is None, PACKING, "without data.source: shards in data.dir are packed already", "data.source"),
        (not is_torchvision, "data.root data.download", "without a torchvision source", "data.source"),
        (data.lanes is None, "data.shuffle_images", "without data.lanes: all images are shuffled", "data.lanes"),
        (not recipe.augment.is_mixed, "augment.mix_p", "without mixup or cutmix", "augment.mixup augment.cutmix"),
        (only_head, "optim.backbone_lr optim.layer_decay", "while only the head trains", "backbone.freeze"),
        (has_no_momentum, "optim.nesterov", "without momentum", "optim.momentum"),
        (only_head, "strategy.sync_batchnorm", "while every BatchNorm is frozen", "backbone.freeze"),
    )
    for has_no_effect, paths, why, others in rules:
        for path in paths.split() if has_no_effect else ():
            if _is_set(recipe, path):
                yield Problem(path, f"has no effect {why}", tuple(others.split()))


def _is_set(recipe: Recipe, path: str) -> bool:
    """Whether the key has another value than its default: a lock writes out every default."""
    *sections, key = path.split(".")
    section = reduce(getattr, sections, recipe)
    return bool(getattr(section, key) != type(section).model_fields[key].default)


def _in_backbone(recipe: Recipe) -> Iterator[Problem]:
    backbone = recipe.backbone
    if isinstance(backbone.freeze, FreezeSchedule):
        yield from _in_schedule(backbone.freeze)
    if backbone.name in OWN_NETWORKS and backbone.weights_name is not None:
        yield Problem("backbone.weights", f"{backbone.name} has no pretrained weights; write none", ("backbone.name",))
    if side := SIDES.get(backbone.name):
        for name, ops in _operations(recipe).items():
            if (size := output_size(ops)) not in (None, (side, side)):
                what = f"{backbone.name} takes {side} x {side} pixels, not {size[0]} x {size[1]}"
                yield Problem(f"augment.{name}", f"{what}; crop or resize to {side}", ("backbone.name",))


def _in_schedule(freeze: FreezeSchedule) -> Iterator[Problem]:
    starts = [stage.at for stage in freeze.schedule]
    if starts[0].value:
        yield Problem("backbone.freeze.schedule.0.at", f"the first stage is at {starts[0]}, but training begins at 0")
    for i, (before, at) in enumerate(pairwise(starts), start=1):
        path = f"backbone.freeze.schedule.{i}.at"
        if before.value and before.unit != at.unit:
            yield Problem(path, f"{at} after {before}: give all stages in one unit")
        elif at.value <= before.value:
            yield Problem(path, f"{at} is not after the stage before it, at {before}")


def _in_data(recipe: Recipe) -> Iterator[Problem]:
    yield from _in_lanes(recipe)
    data = recipe.data
    if data.dir is not None and is_url(data.dir):
        if has_credentials(data.dir):
            what = "has a user, password or signature; put them in the environment or fsspec's configuration"
            yield Problem("data.dir", what)
        if data.source is not None:
            what = "cannot be packed to a URL; pack it to a folder, copy that there, and write null"
            yield Problem("data.source", what, ("data.dir",))
    if data.source is None:
        if data.dir is None:
            yield Problem("data.dir", "required without a data.source to pack", ("data.source",))
        return
    try:
        check_source_name(data.source)
    except ShardsError as error:
        yield Problem("data.source", str(error))
    if data.split is not None:
        for what in _in_split(data.split):
            yield Problem("data.split", what)


def _in_split(split: Mapping[Split, Share]) -> Iterator[str]:
    """Messages about wrong shares."""
    shares = list(split.values())
    numbers = [share for share in shares if share != "rest"]
    if shares.count("rest") > 1:
        yield "only one split can have the rest"
    if any(isinstance(n, int) for n in numbers) and any(isinstance(n, float) for n in numbers):
        yield "either images per class or fractions, not both"
    if (total := sum(n for n in numbers if isinstance(n, float))) > 1 + 1e-9:
        yield f"fractions add up to {total:g}, more than 1"
    elif "rest" in shares and total > 1 - 1e-9:
        yield "fractions add up to 1: nothing is left for the rest"
    if "train" not in split:
        yield "gives no images to train; add train: rest"


def _in_lanes(recipe: Recipe) -> Iterator[Problem]:
    lanes, shuffled = recipe.data.lanes, recipe.data.shuffle_images
    yield from _in_division("data.lanes", lanes, recipe.train.global_batch)
    if lanes is not None and shuffled < lanes:
        what = f"{shuffled} is less than one image for each of {lanes} lanes; give {lanes} times a lane's window"
        yield Problem("data.shuffle_images", what, ("data.lanes",))


def _operations(recipe: Recipe) -> dict[str, tuple[TrainOp | EvalOp, ...]]:
    """Key in `augment` -> its operations; without `eval` where it is null."""
    augment = recipe.augment
    return {"train": augment.train} if augment.eval is None else {"train": augment.train, "eval": augment.eval}


def _in_augment(recipe: Recipe) -> Iterator[Problem]:
    augment = recipe.augment
    if augment.eval is None and not brings_transform(recipe.backbone):
        side = SIDES.get(recipe.backbone.name)
        example = f"{{op: resize, size: [{side}, {side}]}}" if side else USUAL_EVAL
        what = f"required without pretrained weights that bring their own; for example [{example}]"
        yield Problem("augment.eval", what, ("backbone.weights", "backbone.name"))
    for name, ops in _operations(recipe).items():
        if not any(op.op.endswith("crop") or (op.op == "resize" and not isinstance(op.size, int)) for op in ops):
            what = "leaves images of different sizes; add a crop, or resize to [height, width]"
            yield Problem(f"augment.{name}", what)
    if augment.is_mixed and augment.views is not None:
        what = "fixed views are computed once, but mixup and cutmix mix anew every epoch; set it to null"
        yield Problem("augment.views", what, ("augment.mixup", "augment.cutmix"))
    for i, op in enumerate(augment.train):
        yield from _in_ranges(op, f"augment.train.{i}")
        if op.op in PIXEL_OPS:
            yield from _in_pixel_op(augment.train, i)


def _in_ranges(op: TrainOp, path: str) -> Iterator[Problem]:
    for key in ("scale", "ratio", "gamma", "sigma"):
        if isinstance(limits := getattr(op, key, None), tuple) and limits[0] > limits[1]:
            yield Problem(f"{path}.{key}", f"smallest {limits[0]:g} is above largest {limits[1]:g}")
    if op.op == "random_resized_crop" and op.scale[1] > 1:
        yield Problem(f"{path}.scale", "a window cannot be larger than the image: at most 1")


def _in_pixel_op(ops: tuple[TrainOp, ...], i: int) -> Iterator[Problem]:
    op, size, path = ops[i], output_size(ops[:i]), f"augment.train.{i}"
    if size is None:
        yield Problem(path, f"{op.op} needs images of one size; put it after a crop, or a resize to [height, width]")
    if op.op == "gaussian_blur":
        kernel = op.kernel_size
        if kernel % 2 == 0:
            yield Problem(f"{path}.kernel_size", f"must be odd, not {kernel}; try {kernel + 1}")
        elif size is not None and kernel // 2 >= min(size):
            what = f"{kernel} is too wide for images of {size[0]} x {size[1]}; at most {2 * min(size) - 1}"
            yield Problem(f"{path}.kernel_size", what)
    if op.op == "color_jitter" and not (op.brightness or op.contrast or op.saturation or op.hue):
        yield Problem(path, "has no effect: give brightness, contrast, saturation or hue")


def _in_training(recipe: Recipe) -> Iterator[Problem]:
    """In loss, optim, strategy and train."""
    optim, classes, strategy = recipe.optim, recipe.data.classes, recipe.strategy
    if isinstance(recipe.loss, Bce) and classes is not None and len(classes) != 2:
        what = f"bce needs two classes, data.classes has {len(classes)}; use cross_entropy"
        yield Problem("loss.name", what, ("data.classes",))
    if optim.backbone_lr is not None and optim.layer_decay is not None:
        what = "give optim.backbone_lr or optim.layer_decay, not both"
        yield Problem("optim.layer_decay", what, ("optim.backbone_lr",))
    if strategy.precision == "fp16" and strategy.device == "cpu":
        yield Problem("strategy.precision", "fp16 needs CUDA; use bf16 on the CPU", ("strategy.device",))
    yield from _in_division("train.micro_batch", recipe.train.micro_batch, recipe.train.global_batch)


def _in_division(path: str, number: int | None, global_batch: int) -> Iterator[Problem]:
    if number is not None and global_batch % number:
        near = largest_divisor(global_batch, number)
        what = f"{number} does not divide train.global_batch {global_batch}; try {near}"
        yield Problem(path, what, ("train.global_batch",))
