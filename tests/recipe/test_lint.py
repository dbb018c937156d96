from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.fields import with_values
from launcher.recipe.lint import find_contradictions
from launcher.recipe.parse import load_recipe
from tests.recipe.right import SHIPPED, errors_of, load, write

WITHOUT_EVAL = ("  eval:\n    - {op: resize, size: [32, 32]}\n", "")
USUAL_EVAL = "{op: resize, size: 256}, {op: center_crop, size: 224}"
BRING = "required without pretrained weights that bring their own; for example"

NO_EFFECT = [
    ("backbone.head={activation: tanh}", "backbone.head.activation: has no effect without hidden layers"),
    ("data.remote_cache_gib=5.0", "data.remote_cache_gib: has no effect on a local folder"),
    ("data={dir: shards, remote_cache: x}", "data.remote_cache: has no effect on a local folder"),
    (
        "data={dir: shards, split: {train: 0.8, valid: rest}}",
        "data.split: has no effect without data.source: shards in data.dir are packed already",
    ),
    ("data.root=elsewhere", "data.root: has no effect without a torchvision source"),
    ("data.download=false", "data.download: has no effect without a torchvision source"),
    ("data.shuffle_images=64", "data.shuffle_images: has no effect without data.lanes: all images are shuffled"),
    ("augment.mix_p=0.5", "augment.mix_p: has no effect without mixup or cutmix"),
    (
        "backbone.freeze=backbone; optim.backbone_lr=0.5",
        "optim.backbone_lr: has no effect while only the head trains",
    ),
    (
        "backbone.freeze=backbone; optim.layer_decay=0.5",
        "optim.layer_decay: has no effect while only the head trains",
    ),
    ("optim.momentum=0; optim.nesterov=true", "optim.nesterov: has no effect without momentum"),
    (
        "backbone.freeze=backbone; strategy.sync_batchnorm=true",
        "strategy.sync_batchnorm: has no effect while every BatchNorm is frozen",
    ),
]

IN_DATA = [
    ("data={workers: 2}", "data.dir: required without a data.source to pack"),
    ("data.source=digitz", "data.source: unknown source 'digitz'; did you mean digits?"),
    (
        "data.source=torchvision:CIFAR11",
        "data.source: unknown source 'torchvision:CIFAR11'; did you mean torchvision:CIFAR10?",
    ),
    (
        "data={source: digits, dir: 's3://bucket/x'}",
        "data.source: cannot be packed to a URL; pack it to a folder, copy that there, and write null",
    ),
    (
        "data={dir: 'https://me:word@host/x'}",
        "data.dir: has a user, password or signature; put them in the environment or fsspec's configuration",
    ),
    ("data.lanes=24", "data.lanes: 24 does not divide train.global_batch 32; try 16"),
    (
        "data.lanes=16; data.shuffle_images=15",
        "data.shuffle_images: 15 is less than one image for each of 16 lanes; give 16 times a lane's window",
    ),
    ("data.split={valid: 0.8}", "data.split: gives no images to train; add train: rest"),
    ("data.split={train: rest, valid: rest}", "data.split: only one split can have the rest"),
    ("data.split={train: 0.8, valid: 10}", "data.split: either images per class or fractions, not both"),
    ("data.split={train: 0.8, valid: 0.3}", "data.split: fractions add up to 1.1, more than 1"),
    (
        "data.split={train: 0.8, valid: 0.2, test: rest}",
        "data.split: fractions add up to 1: nothing is left for the rest",
    ),
]

IN_OTHER_SECTIONS = [
    ("backbone={name: lenet, weights: DEFAULT}", "backbone.weights: lenet has no pretrained weights; write none"),
    (
        "augment.train=[{op: resize, size: 32}]",
        "augment.train: leaves images of different sizes; add a crop, or resize to [height, width]",
    ),
    (
        "augment.train.1={op: random_resized_crop, size: 32, scale: [1.0, 0.5]}",
        "augment.train.1.scale: smallest 1 is above largest 0.5",
    ),
    (
        "augment.train.1={op: random_resized_crop, size: 32, scale: [0.5, 2.0]}",
        "augment.train.1.scale: a window cannot be larger than the image: at most 1",
    ),
    (
        "augment.cutmix={alpha: 1}; augment.views=2",
        "augment.views: fixed views are computed once, but mixup and cutmix mix anew every epoch; set it to null",
    ),
    (
        "data.classes=['1', '2', '3']; loss={name: bce}",
        "loss.name: bce needs two classes, data.classes has 3; use cross_entropy",
    ),
    (
        "optim.layer_decay=0.5; optim.backbone_lr=0.1",
        "optim.layer_decay: give optim.backbone_lr or optim.layer_decay, not both",
    ),
    ("strategy={device: cpu, precision: fp16}", "strategy.precision: fp16 needs CUDA; use bf16 on the CPU"),
    ("train.micro_batch=7", "train.micro_batch: 7 does not divide train.global_batch 32; try 4"),
    ("train.micro_batch=5", "train.micro_batch: 5 does not divide train.global_batch 32; try 4"),
]

IN_SCHEDULE = [
    ("{at: 1ep, freeze: backbone}", "0.at: the first stage is at 1ep, but training begins at 0"),
    (
        "{at: 0, freeze: [a, b]}, {at: 2, freeze: [a]}, {at: 2, freeze: none}",
        "2.at: 2ep is not after the stage before it, at 2ep",
    ),
    (
        "{at: 0, freeze: [a, b]}, {at: 3, freeze: [a]}, {at: 2, freeze: none}",
        "2.at: 2ep is not after the stage before it, at 3ep",
    ),
    (
        "{at: 0, freeze: [a]}, {at: 3ep, freeze: [b]}, {at: 400st, freeze: none}",
        "2.at: 400st after 3ep: give all stages in one unit",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), [*NO_EFFECT, *IN_DATA, *IN_OTHER_SECTIONS])
def test_contradiction_gets_one_line(overrides: str, message: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path), tuple(overrides.split("; "))) == [f"command line: {message}"]


@pytest.mark.parametrize(("stages", "message"), IN_SCHEDULE)
def test_wrong_order_of_stages_gets_one_line(stages: str, message: str, tmp_path: Path) -> None:
    found = errors_of(write(tmp_path), (f"backbone.freeze={{schedule: [{stages}]}}",))
    assert found == [f"command line: backbone.freeze.schedule.{message}"]


@pytest.mark.parametrize(
    ("backbone", "example"),
    [
        ("{name: resnet18, weights: none}", USUAL_EVAL),
        ("{name: resnet18, weights: my.pt}", USUAL_EVAL),
        ("{name: timm/resnet18, weights: a/b}", USUAL_EVAL),
        ("{name: lenet, weights: none}", "{op: resize, size: [32, 32]}"),
        ("{name: inception_v3, weights: none}", "{op: resize, size: [299, 299]}"),
    ],
)
@pytest.mark.parametrize(
    ("change", "override", "place"),
    [(WITHOUT_EVAL, (), "recipe.yaml:9"), (("", ""), ("augment.eval=",), "command line")],
)
def test_eval_is_required_without_weights_that_bring_it(
    backbone: str, example: str, change: tuple[str, str], override: tuple[str, ...], place: str, tmp_path: Path
) -> None:
    found = errors_of(write(tmp_path, change), (f"backbone={backbone}", *override))
    assert f"{place}: augment.eval: {BRING} [{example}]" in found
    assert [each for each in found if "pixels, not 32 x 32" not in each] == [found[-1]]


def test_eval_is_required_of_a_network_without_weights(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, ("resnet18", "lenet"), WITHOUT_EVAL)) == [
        "recipe.yaml:4: backbone.weights: lenet has no pretrained weights; write none",
        f"recipe.yaml:9: augment.eval: {BRING} [{{op: resize, size: [32, 32]}}]",
    ]


def test_pretrained_weights_bring_eval(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, WITHOUT_EVAL)) == []


def test_wrong_eval_is_not_also_reported_as_missing(tmp_path: Path) -> None:
    found = errors_of(write(tmp_path), ("backbone.weights=none", "augment.eval.0.op=x"))
    assert found == ['command line: augment.eval.0.op: no such op: "x"; valid: center_crop, resize']


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_have_no_contradictions(path: Path) -> None:
    assert find_contradictions(load_recipe(path).recipe) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ("backbone.head={hidden: [8], activation: tanh}",),
        ("backbone.head.activation=relu",),
        ("strategy.sync_batchnorm=true",),
        ("backbone.freeze=backbone",),
        ("loss={name: bce}", "data.classes=['3', '5']"),
        ("loss={name: bce}",),
        ("optim.nesterov=true",),
        ("strategy={precision: fp16}",),
        ("strategy={precision: fp16, device: cuda}",),
        ("strategy={precision: bf16, device: cpu}",),
        ("data={dir: shards, workers: 2, last_batch: wrap}",),
        ("data={dir: shards, download: true, images_per_shard: 1000, root: null}",),
        ("data={source: 'torchvision:CIFAR10', root: there, download: false}",),
        ("data.split={train: 60, valid: 10, test: rest}",),
        ("data.split={train: 0.5, valid: 0.5}",),
        ("data.split=null",),
        ("augment.eval=[{op: resize, size: 32}, {op: center_crop, size: 32}]",),
        ("augment.train=[{op: random_resized_crop, size: 32, scale: [1.0, 1.0]}]",),
        ("augment.mixup={alpha: 0.2}", "augment.cutmix={alpha: 1}", "augment.mix_p=0.5"),
        ("train.micro_batch=32",),
        ("backbone={name: lenet}",),
    ],
)
def test_legal_combinations_have_no_contradictions(overrides: tuple[str, ...], tmp_path: Path) -> None:
    assert find_contradictions(load(tmp_path, overrides=overrides).recipe) == []


def test_problem_names_every_key_that_it_depends_on(tmp_path: Path) -> None:
    [problem] = find_contradictions(with_values(load(tmp_path).recipe, {"train.micro_batch": 5}))
    assert (problem.path, problem.paths) == ("train.micro_batch", ("train.micro_batch", "train.global_batch"))
