"""What each key alone allows but the recipe as a whole does not: contradictions, and options without effect."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from launcher.recipe.augment import EvalOp, TrainOp
from launcher.recipe.augment_pixels import PIXEL_OPS
from launcher.recipe.backbone import FreezeSchedule
from launcher.recipe.facts import OWN_NETWORKS, brings_transform, output_size
from launcher.recipe.fields import Section
from launcher.recipe.optim import Sgd
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Bce, Data, Recipe
from launcher.recipe.url import has_credentials, is_url
from shards.manifest import ShardsError
from shards.sources import check_source_name

SIDES = {"avatar_cnn": 64, "inception_v3": 299, "lenet": 32}
"""Pixels of networks whose layers fit one size of image only."""

USUAL_EVAL = "{op: resize, size: 256}, {op: center_crop, size: 224}"
"""What most weights are evaluated with."""


def find_contradictions(recipe: Recipe) -> list[Problem]:
    """Every one of them, in the order of the sections."""
    checks = (_in_backbone, _in_data, _in_augment, _in_loss_and_optim, _in_strategy, _in_train)
    return [problem for check in checks for problem in check(recipe)]


def _in_backbone(recipe: Recipe) -> Iterator[Problem]:
    head = recipe.backbone.head
    if head != "keep" and not head.hidden and _is_set(head, "activation"):
        yield _problem("has no effect without hidden layers", "backbone.head.activation", "backbone.head.hidden")
    yield from _in_freeze(recipe)
    if recipe.backbone.freeze == "backbone" and recipe.strategy.sync_batchnorm:
        yield _problem(
            "has no effect while backbone.freeze holds every BatchNorm", "strategy.sync_batchnorm", "backbone.freeze"
        )
    name, weights = recipe.backbone.name, recipe.backbone.weights
    if name in OWN_NETWORKS and weights != "none" and recipe.backbone.weights_file is None:
        yield _problem(f"{name} has no pretrained weights; write none", "backbone.weights", "backbone.name")
    for part, size in (("train", output_size(recipe.augment.train)), ("eval", output_size(recipe.augment.eval or ()))):
        if (side := SIDES.get(name)) and size is not None and size != (side, side):
            what = f"{name} takes {side} x {side} pixels, not {size[0]} x {size[1]}; crop or resize to {side}"
            yield _problem(what, f"augment.{part}", "backbone.name")


def _in_freeze(recipe: Recipe) -> Iterator[Problem]:
    freeze = recipe.backbone.freeze
    if isinstance(freeze, FreezeSchedule):
        lengths = [stage.at for stage in freeze.schedule]
        if lengths[0].value:
            what = f"the first stage is at {lengths[0]}, but training begins at 0"
            yield _problem(what, "backbone.freeze.schedule.0.at")
        for i, (before, at) in enumerate(pairwise(lengths), start=1):
            if before.value and before.unit != at.unit:
                what = f"{at} after {before}: give all stages in one unit"
                yield _problem(what, f"backbone.freeze.schedule.{i}.at")
            elif at.value <= before.value:
                what = f"{at} is not after the stage before it, at {before}"
                yield _problem(what, f"backbone.freeze.schedule.{i}.at")
    if freeze == "backbone":
        for key in ("backbone_lr", "layer_decay"):
            if getattr(recipe.optim, key) is not None:
                yield _problem("has no effect while only the head trains", f"optim.{key}", "backbone.freeze")


def _in_remote(data: Data) -> Iterator[Problem]:
    if data.dir is None or not is_url(data.dir):
        for key in ("remote_cache", "remote_cache_gib", "remote_tries"):
            if _is_set(data, key):
                yield _problem("has no effect on a folder of this machine", f"data.{key}", "data.dir")
        return
    if has_credentials(data.dir):
        yield _problem(
            "has a user, password or signature: leave those to the environment or fsspec's configuration",
            "data.dir",
        )
    if data.source is not None:
        yield _problem(
            "is not packed to a URL; pack it to a folder, copy that there, and write null", "data.source", "data.dir"
        )


def _in_data(recipe: Recipe) -> Iterator[Problem]:
    yield from _in_lanes(recipe)
    data = recipe.data
    yield from _in_remote(data)
    if data.source is None:
        if data.dir is None:
            yield _problem("needed when there is no data.source to pack from", "data.dir", "data.source")
        for key in ("root", "classes", "split", "split_seed", "max_side", "images_per_shard", "download"):
            if _is_set(data, key):
                yield _problem(
                    "has no effect without data.source: shards in data.dir are packed already",
                    f"data.{key}",
                    "data.source",
                )
        return
    try:
        check_source_name(data.source)
    except ShardsError as error:
        yield _problem(str(error), "data.source")
    if not data.source.startswith("torchvision:"):
        for key in ("root", "download"):
            if _is_set(data, key):
                yield _problem(
                    f"has no effect on {data.source}, only on torchvision sources", f"data.{key}", "data.source"
                )
    shares = list(data.split.values()) if data.split is not None else []
    numbers = [share for share in shares if share != "rest"]
    if shares.count("rest") > 1:
        yield _problem("only one split can have the rest", "data.split")
    if any(isinstance(n, int) for n in numbers) and any(isinstance(n, float) for n in numbers):
        yield _problem("either images per class or fractions, not both", "data.split")
    if (total := sum(n for n in numbers if isinstance(n, float))) > 1 + 1e-9:
        yield _problem(f"fractions add up to {total:g}, more than 1", "data.split")
    elif "rest" in shares and total > 1 - 1e-9:
        yield _problem("fractions add up to 1: nothing is left for the rest", "data.split")
    if data.split is not None and "train" not in data.split:
        yield _problem("gives no images to train; add train: rest", "data.split")


def _in_lanes(recipe: Recipe) -> Iterator[Problem]:
    lanes, shuffled, global_batch = recipe.data.lanes, recipe.data.shuffle_images, recipe.train.global_batch
    if lanes is None:
        if _is_set(recipe.data, "shuffle_images"):
            yield _problem(
                "has no effect without data.lanes: all images are shuffled", "data.shuffle_images", "data.lanes"
            )
        return
    if global_batch % lanes:
        near = max(d for d in range(1, min(lanes, global_batch) + 1) if global_batch % d == 0)
        what = f"{lanes} does not divide train.global_batch {global_batch}; try {near}"
        yield _problem(what, "data.lanes", "train.global_batch")
    if shuffled < lanes:
        what = f"{shuffled} is less than one image for each of {lanes} lanes; give {lanes} times a lane's window"
        yield _problem(what, "data.shuffle_images", "data.lanes")


def _in_augment(recipe: Recipe) -> Iterator[Problem]:
    ops_of: dict[str, tuple[TrainOp, ...] | tuple[EvalOp, ...]] = {"train": recipe.augment.train}
    if recipe.augment.eval is not None:
        ops_of["eval"] = recipe.augment.eval
    elif not brings_transform(recipe.backbone):
        side = SIDES.get(recipe.backbone.name)
        example = f"{{op: resize, size: [{side}, {side}]}}" if side else USUAL_EVAL
        what = f"required without pretrained weights that bring their own; for example [{example}]"
        yield _problem(what, "augment.eval", "backbone.weights", "backbone.name")
    for name, ops in ops_of.items():
        if not any(op.op.endswith("crop") or (op.op == "resize" and not isinstance(op.size, int)) for op in ops):
            yield _problem(
                "leaves images of different sizes; add a crop, or resize to [height, width]", f"augment.{name}"
            )
    if recipe.augment.is_mixed and recipe.augment.views is not None:
        what = "fixed views are to be computed once, but mixup and cutmix mix images anew every epoch; set it to null"
        yield _problem(what, "augment.views", "augment.mixup", "augment.cutmix")
    if not recipe.augment.is_mixed and _is_set(recipe.augment, "mix_p"):
        yield _problem("has no effect without mixup or cutmix", "augment.mix_p", "augment.mixup", "augment.cutmix")
    for i, op in enumerate(recipe.augment.train):
        for key in ("scale", "ratio", "gamma", "sigma"):
            if isinstance(limits := getattr(op, key, None), tuple) and limits[0] > limits[1]:
                what = f"smallest {limits[0]:g} is above largest {limits[1]:g}"
                yield _problem(what, f"augment.train.{i}.{key}")
        if op.op == "random_resized_crop" and op.scale[1] > 1:
            yield _problem("a window cannot be larger than the image: at most 1", f"augment.train.{i}.scale")
        if op.op in PIXEL_OPS:
            yield from _in_pixel_op(recipe.augment.train, i)


def _in_pixel_op(ops: tuple[TrainOp, ...], i: int) -> Iterator[Problem]:
    op, size = ops[i], output_size(ops[:i])
    if size is None:
        what = f"{op.op} needs images of one size; put it after a crop, or a resize to [height, width]"
        yield _problem(what, f"augment.train.{i}")
    if op.op == "gaussian_blur":
        if op.kernel_size % 2 == 0:
            what = f"must be odd, not {op.kernel_size}; try {op.kernel_size + 1}"
            yield _problem(what, f"augment.train.{i}.kernel_size")
        elif size is not None and op.kernel_size // 2 >= min(size):
            what = f"{op.kernel_size} is too wide for images of {size[0]} x {size[1]}; at most {2 * min(size) - 1}"
            yield _problem(what, f"augment.train.{i}.kernel_size")
    if op.op == "color_jitter" and not (op.brightness or op.contrast or op.saturation or op.hue):
        yield _problem("has no effect: give brightness, contrast, saturation or hue", f"augment.train.{i}")


def _in_loss_and_optim(recipe: Recipe) -> Iterator[Problem]:
    if isinstance(recipe.loss, Bce) and recipe.data.classes is not None and len(recipe.data.classes) != 2:
        yield _problem(
            f"bce needs two classes, data.classes has {len(recipe.data.classes)}; use cross_entropy",
            "loss.name",
            "data.classes",
        )
    if recipe.optim.backbone_lr is not None and recipe.optim.layer_decay is not None:
        what = "give optim.backbone_lr or optim.layer_decay, not both"
        yield _problem(what, "optim.layer_decay", "optim.backbone_lr")
    if isinstance(recipe.optim, Sgd) and recipe.optim.nesterov and recipe.optim.momentum == 0:
        yield _problem("has no effect without momentum", "optim.nesterov", "optim.momentum")


def _in_strategy(recipe: Recipe) -> Iterator[Problem]:
    if recipe.strategy.precision == "fp16" and recipe.strategy.device == "cpu":
        yield _problem("fp16 needs CUDA; use bf16 on the CPU", "strategy.precision", "strategy.device")


def _in_train(recipe: Recipe) -> Iterator[Problem]:
    train = recipe.train
    if train.micro_batch is not None and train.global_batch % train.micro_batch:
        near = max(d for d in range(1, min(train.micro_batch, train.global_batch) + 1) if train.global_batch % d == 0)
        yield _problem(
            f"{train.micro_batch} does not divide train.global_batch {train.global_batch}; try {near}",
            "train.micro_batch",
            "train.global_batch",
        )


def _is_set(section: Section, key: str) -> bool:
    """Whether `key` has another value than its default: a lock writes out every default."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)


def _problem(what: str, path: str, *others: str) -> Problem:
    return Problem(path, what, (path, *others))
