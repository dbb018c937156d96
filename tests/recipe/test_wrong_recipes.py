"""Wrong recipes, each a small change to a right one, and the one line a user sees for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.recipe.parse import load_recipe
from launcher.recipe.plan import PlanError, make_plan
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Data
from tests.recipe.right import errors_of, load, write

BCE = ("{name: cross_entropy, label_smoothing: 0.1}", "{name: bce}")
DIGITS = {"train": 1000, "valid": 100, "test": 200}

WRONG_KEYS = [
    ("run: {", "rum: {", "1: rum: unknown key; did you mean 'run'?"),
    ("  name: resnet18", "  nane: resnet18", "3: backbone.nane: unknown key; did you mean 'name'?"),
    ("{op: resize, size", "{op: resize, sise", "11: augment.train.0.sise: unknown key; did you mean 'size'?"),
    ("{op: resize, size: [32, 32]}", "{op: resize}", "11: augment.train.0.size: required, but not there"),
    ("train:\n  epochs", "trian:\n  epochs", "22: trian: unknown key; did you mean 'train'?"),
    (
        "{op: rotation, ",
        "{op: rotation, angle: 3, ",
        "12: augment.train.1.angle: unknown key; valid: degrees, interpolation, op",
    ),
    (
        "  momentum: 0.9",
        "  momentum: 0.9\n  beta1: 0.9",
        "21: optim.beta1: unknown key; valid: {sgd}",
    ),
    ("valid: rest", "vaild: rest", "8: data.split.vaild: unknown key; did you mean 'valid'?"),
    ("{mode: offline", "{mod: offline", "29: log.wandb.mod: unknown key; did you mean 'mode'?"),
    ("  lr: 0.1\n", "", "17: optim.lr: required, but not there"),
    ("backbone:\n  name: resnet18\n  weights: DEFAULT\n  freeze: none\n", "", "1: backbone: required, but not there"),
]

WRONG_VALUES = [
    ("epochs: 3", "epochs: 5min", '23: train.epochs: {duration}, not "5min"'),
    ("epochs: 3", "epochs:", "23: train.epochs: {duration}, not null"),
    ("epochs: 3", "epochs: -3", "23: train.epochs: {duration}, not -3"),
    ("epochs: 3", "epochs: 0", "23: train.epochs: must be longer than 0, not 0"),
    (
        "epochs: 3",
        "epochs: 1.5st",
        '23: train.epochs: should be a whole number of steps or images; only epochs may have a fraction, not "1.5st"',
    ),
    ("global_batch: 32", "global_batch: 1e3", "24: train.global_batch: should be a whole number, not 1000.0"),
    ("global_batch: 32", "global_batch: 0", "24: train.global_batch: must be at least 1, not 0"),
    ("global_batch: 32", "global_batch: many", '24: train.global_batch: should be a whole number, not "many"'),
    ("seed: 3", "seed: 4294967296", "1: run.seed: must be less than 4294967296, not 4294967296"),
    (
        "seed: 3",
        "name: my run",
        "1: run.name: must be letters, digits, '.', '_' and '-', a letter or digit first, not \"my run\"",
    ),
    ("seed: 3", "deterministic: yes", '1: run.deterministic: should be true or false, not "yes"'),
    ("seed: 3", "dir: ''", '1: run.dir: must not be empty, not ""'),
    ("lr: 0.1", "lr: -0.1", "19: optim.lr: must be more than 0, not -0.1"),
    ("lr: 0.1", "lr: .nan", "19: optim.lr: must be a finite number, not NaN"),
    ("lr: 0.1", "lr: [0.1]", "19: optim.lr: should be a number, not a list"),
    ("momentum: 0.9", "momentum: 1", "20: optim.momentum: must be less than 1, not 1"),
    ("precision: bf16", "precision: fp61", "27: strategy.precision: no such value: \"fp61\"; did you mean 'fp16'?"),
    ("precision: bf16", "precision: 16", "27: strategy.precision: no such value: 16; valid: bf16, fp16, no"),
    ("name: resnet18", "name: 18", "3: backbone.name: should be text, not 18"),
    ("{seed: 3}", "3", "1: run: should be a section with keys, not 3"),
    ("tags: [a, b]", "tags: a", '29: log.wandb.tags: should be a list, not "a"'),
    ("tags: [a, b]", "tags: [a, 1]", "29: log.wandb.tags.1: should be text, not 1"),
    ("source: digits", "source: digits\n  classes: [a]", "8: data.classes: needs at least 2 values, not 1"),
    ("train: 0.8", "train: most", '8: data.split.train: should be a number or rest, not "most"'),
    ("train: 0.8", "train: 1.5", "8: data.split.train: must be less than 1, not 1.5"),
    ("size: [32, 32]", "size: big", '11: augment.train.0.size: should be a whole number or a list, not "big"'),
    ("size: [32, 32]", "size: [32]", "11: augment.train.0.size: needs more values than 1"),
    ("size: [32, 32]", "size: [32, 32, 3]", "11: augment.train.0.size: needs at most 2 values, not 3"),
    ("size: [32, 32]", "size: [32, 0]", "11: augment.train.0.size.1: must be at least 1, not 0"),
    ("degrees: 10", "degrees: 200", "12: augment.train.1.degrees: must be at most 180, not 200"),
    (
        "mean: [0.5, 0.5, 0.5]",
        "mean: datset",
        "15: augment.mean: should be a list or dataset, not \"datset\"; did you mean 'dataset'?",
    ),
]

WRONG_KINDS = [
    ("op: rotation", "op: rotate", "12: augment.train.1.op: no such op: \"rotate\"; did you mean 'rotation'?"),
    ("op: rotation, ", "", "12: augment.train.1.op: required, but not there: says which operation this is"),
    (
        "{op: rotation, degrees: 10}",
        "rotation",
        '12: augment.train.1: should be a section with keys, not "rotation"',
    ),
    (
        "  eval:\n    - {op: resize, size: [32, 32]}",
        "  eval:\n    - {op: random_crop, size: 32}",
        "14: augment.eval.0.op: random_crop is random, for augment.train only; valid: center_crop, resize",
    ),
    ("name: sgd", "name: adamm", "18: optim.name: no such name: \"adamm\"; did you mean 'adam'?"),
    ("  name: sgd\n", "", "17: optim.name: required, but not there: says which kind this is"),
    ("name: cosine", "name: linear", '21: schedule.name: no such name: "linear"; valid: {schedules}'),
    ("{name: cosine, warmup: 1ep}", "cosine", '21: schedule: should be a section with keys, not "cosine"'),
    ("source: digits", "source: digitz", "7: data.source: unknown source 'digitz'; did you mean digits?"),
    (
        "source: digits",
        "source: torchvision:CIFAR11",
        "7: data.source: unknown source 'torchvision:CIFAR11'; did you mean torchvision:CIFAR10?",
    ),
]

CONTRADICTIONS = [
    ("micro_batch: 8", "micro_batch: 7", "25: train.micro_batch: 7 does not divide train.global_batch 32; try 4"),
    (
        "momentum: 0.9",
        "momentum: 0\n  nesterov: true",
        "21: optim.nesterov: has no effect without momentum",
    ),
    ("precision: bf16", "{device: cpu, precision: fp16}", "27: strategy.precision: {fp16}"),
    ("name: resnet18", "name: lenet", "4: backbone.weights: lenet has no pretrained weights; write none"),
    (
        "freeze: none",
        "head: {activation: tanh}",
        "5: backbone.head.activation: has no effect without hidden layers",
    ),
    (
        "size: [32, 32]",
        "size: 32",
        "10: augment.train: leaves images of different sizes; add a crop, or resize to [height, width]",
    ),
    (
        "{op: rotation, degrees: 10}",
        "{op: random_resized_crop, size: 32, scale: [1.0, 0.5]}",
        "12: augment.train.1.scale: smallest 1 is above largest 0.5",
    ),
    (
        "{op: rotation, degrees: 10}",
        "{op: random_resized_crop, size: 32, scale: [0.5, 2.0]}",
        "12: augment.train.1.scale: a window cannot be larger than the image: at most 1",
    ),
    (
        "source: digits",
        "source: digits\n  root: elsewhere",
        "8: data.root: has no effect on digits, only on torchvision sources",
    ),
    (
        "source: digits\n  split",
        "dir: shards\n  split",
        "8: data.split: has no effect without data.source: shards in data.dir are packed already",
    ),
    (
        "source: digits\n  split: {train: 0.8, valid: rest}",
        "workers: 2",
        "6: data.dir: needed when there is no data.source to pack from",
    ),
    ("source: digits", "source: digits\n  lanes: 0", "8: data.lanes: must be at least 1, not 0"),
    ("source: digits", "source: digits\n  lanes: auto", '8: data.lanes: should be a whole number, not "auto"'),
    (
        "source: digits",
        "source: digits\n  lanes: 24",
        "8: data.lanes: 24 does not divide train.global_batch 32; try 16",
    ),
    (
        "source: digits",
        "source: digits\n  shuffle_images: 64",
        "8: data.shuffle_images: has no effect without data.lanes: all images are shuffled",
    ),
    (
        "source: digits",
        "source: digits\n  lanes: 16\n  shuffle_images: 15",
        "9: data.shuffle_images: 15 is less than one image for each of 16 lanes; give 16 times a lane's window",
    ),
    (
        "source: digits",
        "source: digits\n  dir: s3://bucket/x",
        "7: data.source: is not packed to a URL; pack it to a folder, copy that there, and write null",
    ),
    (
        "source: digits",
        "source: digits\n  remote_cache_gib: 5.0",
        "8: data.remote_cache_gib: has no effect on a folder of this machine",
    ),
    (
        "source: digits\n  split: {train: 0.8, valid: rest}",
        "dir: shards\n  remote_cache: x",
        "8: data.remote_cache: has no effect on a folder of this machine",
    ),
    (
        "source: digits\n  split: {train: 0.8, valid: rest}",
        "dir: https://me:word@host/x",
        "7: data.dir: has a user, password or signature: leave those to the environment or fsspec's configuration",
    ),
    ("train: 0.8, valid: rest", "valid: 0.8", "8: data.split: gives no images to train; add train: rest"),
    ("train: 0.8", "train: rest", "8: data.split: only one split can have the rest"),
    ("valid: rest", "valid: 10", "8: data.split: either images per class or fractions, not both"),
    ("valid: rest", "valid: 0.3", "8: data.split: fractions add up to 1.1, more than 1"),
    (
        "valid: rest",
        "valid: 0.2, test: rest",
        "8: data.split: fractions add up to 1: nothing is left for the rest",
    ),
]

FREEZING = [
    ("backbon", "{freeze}: no such value: \"backbon\"; did you mean 'backbone'?"),
    ("3", "{freeze}: no such value: 3; valid: backbone, none"),
    ("", "{freeze}: no such value: null; valid: backbone, none"),
    ("{except_last: 0}", "{freeze}.except_last: must be at least 1, not 0"),
    (
        "{except_last: some}",
        '{freeze}.except_last: should be a whole number, not "some"',
    ),
    (
        "{except_first: 1}",
        "{freeze}.except_first: unknown key; did you mean 'except_last'?",
    ),
    ("{}", "{freeze}.except_last: required, but not there"),
    ("[]", "{freeze}: needs at least 1 value, not 0"),
    ("[layer1, '']", '{freeze}.1: must not be empty, not ""'),
    ("[layer1, 2]", "{freeze}.1: should be text, not 2"),
    ("{schedule: []}", "{freeze}.schedule: needs at least 1 value, not 0"),
    ("{schedule: backbone}", '{freeze}.schedule: should be a list, not "backbone"'),
    ("{schedule: [{at: 0}]}", "{freeze}.schedule.0.freeze: required, but not there"),
    (
        "{schedule: [{at: 0, frees: none}]}",
        "{freeze}.schedule.0.frees: unknown key; did you mean 'freeze'?",
    ),
    (
        "{schedule: [{at: 0, freeze: nothing}]}",
        '{freeze}.schedule.0.freeze: no such value: "nothing"; valid: backbone, none',
    ),
    ("{schedule: [{at: soon, freeze: none}]}", '{freeze}.schedule.0.at: {duration}, not "soon"'),
    (
        "{schedule: [{at: 0, freeze: {except_last: 0}}]}",
        "{freeze}.schedule.0.freeze.except_last: must be at least 1, not 0",
    ),
    (
        "{schedule: [{at: 1ep, freeze: backbone}]}",
        "{freeze}.schedule.0.at: the first stage is at 1ep, but training begins at 0",
    ),
    (
        "{schedule: [{at: 0, freeze: [a, b]}, {at: 2, freeze: [a]}, {at: 2, freeze: none}]}",
        "{freeze}.schedule.2.at: 2ep is not after the stage before it, at 2ep",
    ),
    (
        "{schedule: [{at: 0, freeze: [a, b]}, {at: 3, freeze: [a]}, {at: 2, freeze: none}]}",
        "{freeze}.schedule.2.at: 2ep is not after the stage before it, at 3ep",
    ),
    (
        "{schedule: [{at: 0, freeze: [a]}, {at: 3ep, freeze: [b]}, {at: 400st, freeze: none}]}",
        "{freeze}.schedule.2.at: 400st after 3ep: give all stages in one unit",
    ),
]

RATES_AND_SPEED = [
    ("momentum: 0.9", "backbone_lr: 0", "20: optim.backbone_lr: must be more than 0, not 0"),
    ("momentum: 0.9", "layer_decay: 1.0", "20: optim.layer_decay: must be less than 1, not 1.0"),
    ("momentum: 0.9", "layer_decay: 0.0", "20: optim.layer_decay: must be more than 0, not 0.0"),
    (
        "momentum: 0.9",
        "layer_decay: 0.5\n  backbone_lr: 0.1",
        "20: optim.layer_decay: give optim.backbone_lr or optim.layer_decay, not both",
    ),
    ("precision: bf16", "compile: maybe", '27: strategy.compile: no such value: "maybe"; valid: auto, off, on'),
    ("precision: bf16", "compile: true", "27: strategy.compile: no such value: true; valid: auto, off, on"),
    ("precision: bf16", "feature_cache_gib: -1", "27: strategy.feature_cache_gib: must be at least 0, not -1"),
    ("precision: bf16", "hang_timeout_s: 0.5", "27: strategy.hang_timeout_s: must be at least 1, not 0.5"),
    ("precision: bf16", "hang_timeout_s: .inf", "27: strategy.hang_timeout_s: must be a finite number, not Infinity"),
    ("precision: bf16", "hang_timeout_s: long", '27: strategy.hang_timeout_s: should be a number, not "long"'),
    ("precision: bf16", "feature_cache_gib: all", '27: strategy.feature_cache_gib: should be a number, not "all"'),
    ("  mean: [0.5", "  views: 0\n  mean: [0.5", "15: augment.views: must be at least 1, not 0"),
    ("  mean: [0.5", "  views: 2.5\n  mean: [0.5", "15: augment.views: should be a whole number, not 2.5"),
]

MIXING = [
    ("  mean: [0.5", "  mixup: 0.2\n  mean: [0.5", "15: augment.mixup: should be a section with keys, not 0.2"),
    ("  mean: [0.5", "  mixup: {}\n  mean: [0.5", "15: augment.mixup.alpha: required, but not there"),
    ("  mean: [0.5", "  cutmix: {alpha: 0}\n  mean: [0.5", "15: augment.cutmix.alpha: must be more than 0, not 0"),
    ("  mean: [0.5", "  mix_p: 0.5\n  mean: [0.5", "15: augment.mix_p: has no effect without mixup or cutmix"),
    (
        "  mean: [0.5",
        "  cutmix: {alpha: 1}\n  views: 2\n  mean: [0.5",
        "16: augment.views: {views}",
    ),
]

NOT_PLAIN_YAML = [
    ("run: {seed: 3}", "\trun: 3", "1: not valid YAML: a tab; indent with spaces"),
    (
        "run: {seed: 3}",
        "run: {seed: 3",
        "2: not valid YAML: expected ',' or '}}', but got ':' while parsing a flow mapping that begins on line 1",
    ),
    (
        "run: {seed: 3}",
        "run: a: b",
        "1: not valid YAML: a second ': ' in one value; put text in quotes, or mend the indentation",
    ),
    ("global_batch: 32", "epochs: 4", "24: train.epochs: written twice, first on line 23"),
    (
        "seed: 3",
        "name: !!python/object/apply:os.system [touch executed]",
        "1: has the tag !!python/object/apply:os.system; a recipe holds plain values only",
    ),
    ("seed: 3", "name: !!binary aGk=", "1: has the tag !!binary; a recipe holds plain values only"),
    ("seed: 3", "seed: !!int many", "1: not valid YAML: 'many' cannot be read as a whole number"),
    ("seed: 3", "seed: !!bool maybe", "1: not valid YAML: 'maybe' cannot be read as true or false"),
    ("seed: 3", 'name: "\\ud800"', "1: not valid YAML: '\\ud800' cannot be read as text"),
    ("seed: 3", "name: \0", "1: not valid YAML: has the character '\\x00'"),
    ("seed: 3", "[a]: 3", "1: a key must be a word, not a list or a section"),
    ("seed: 3", "<<: {seed: 3}", "1: << is not read; write the keys out"),
    ("seed: 3", "seed: " + "9" * 5000, f"1: not valid YAML: '{'9' * 40}' cannot be read as a whole number"),
]

WORDS = {
    "sgd": "backbone_lr, clip_norm, ema_decay, layer_decay, lr, momentum, name, nesterov, weight_decay",
    "duration": "should be a duration such as 30ep, 5000st or 1000000im",
    "schedules": "constant, cosine, onecycle, step",
    "views": "fixed views are to be computed once, but mixup and cutmix mix images anew every epoch; set it to null",
    "fp16": "fp16 needs CUDA; use bf16 on the CPU",
}


WRONG = WRONG_KEYS + WRONG_VALUES + WRONG_KINDS + CONTRADICTIONS + RATES_AND_SPEED + MIXING + NOT_PLAIN_YAML


@pytest.mark.parametrize(("old", "new", "line"), WRONG)
def test_wrong_recipe_gets_one_line(old: str, new: str, line: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, (old, new))) == [f"recipe.yaml:{line.format(**WORDS)}"]


def test_right_recipe_is_right(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path)) == []


WITHOUT_EVAL = ("  eval:\n    - {op: resize, size: [32, 32]}\n", "")


@pytest.mark.parametrize(
    ("network", "example"),
    [
        ("  name: resnet18\n  weights: none", "{op: resize, size: 256}, {op: center_crop, size: 224}"),
        ("  name: resnet18\n  weights: my.pt", "{op: resize, size: 256}, {op: center_crop, size: 224}"),
        ("  name: timm/resnet18\n  weights: a/b", "{op: resize, size: 256}, {op: center_crop, size: 224}"),
        ("  name: lenet\n  weights: none", "{op: resize, size: [32, 32]}"),
        ("  name: inception_v3\n  weights: none", "{op: resize, size: [299, 299]}"),
    ],
)
@pytest.mark.parametrize(("eval_change", "line"), [(WITHOUT_EVAL, 9), ((WITHOUT_EVAL[0], "  eval:\n"), 13)])
def test_eval_that_no_weights_bring(
    network: str, example: str, eval_change: tuple[str, str], line: int, tmp_path: Path
) -> None:
    found = errors_of(write(tmp_path, ("  name: resnet18\n  weights: DEFAULT", network), eval_change))
    what = "required without pretrained weights that bring their own"
    assert f"recipe.yaml:{line}: augment.eval: {what}; for example [{example}]" in found
    assert [each for each in found if "pixels, not 32 x 32" not in each] == [found[-1]]


def test_eval_of_a_network_that_has_no_weights(tmp_path: Path) -> None:
    what = "required without pretrained weights that bring their own; for example [{op: resize, size: [32, 32]}]"
    assert errors_of(write(tmp_path, ("resnet18", "lenet"), WITHOUT_EVAL)) == [
        "recipe.yaml:4: backbone.weights: lenet has no pretrained weights; write none",
        f"recipe.yaml:9: augment.eval: {what}",
    ]


def test_eval_that_the_weights_bring(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, WITHOUT_EVAL)) == []


def test_wrong_eval_is_not_missed_too(tmp_path: Path) -> None:
    path = write(
        tmp_path, ("weights: DEFAULT", "weights: none"), ("  eval:\n    - {op: resize, ", "  eval:\n    - {op: x, ")
    )
    assert errors_of(path) == ['recipe.yaml:14: augment.eval.0.op: no such op: "x"; valid: center_crop, resize']


def test_bce_with_three_classes(tmp_path: Path) -> None:
    path = write(tmp_path, ("source: digits", "source: digits\n  classes: ['1', '2', '3']"), BCE)
    assert errors_of(path) == [
        "recipe.yaml:17: loss.name: bce needs two classes, data.classes has 3; use cross_entropy"
    ]


def test_sync_batchnorm_of_a_frozen_backbone(tmp_path: Path) -> None:
    path = write(tmp_path, ("freeze: none", "freeze: backbone"), ("precision: bf16", "sync_batchnorm: true"))
    assert errors_of(path) == [
        "recipe.yaml:27: strategy.sync_batchnorm: has no effect while backbone.freeze holds every BatchNorm"
    ]


@pytest.mark.parametrize(("freeze", "line"), FREEZING)
def test_wrong_freezing_gets_one_line(freeze: str, line: str, tmp_path: Path) -> None:
    expected = line.format(**WORDS, freeze="backbone.freeze")
    assert errors_of(write(tmp_path, ("freeze: none", f"freeze: {freeze}"))) == [f"recipe.yaml:5: {expected}"]


@pytest.mark.parametrize("key", ["backbone_lr", "layer_decay"])
def test_a_rate_for_a_backbone_that_never_trains(key: str, tmp_path: Path) -> None:
    path = write(tmp_path, ("freeze: none", "freeze: backbone"), ("momentum: 0.9", f"{key}: 0.5"))
    assert errors_of(path) == [f"recipe.yaml:20: optim.{key}: has no effect while only the head trains"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("freeze: none", "freeze: {except_last: 2}"),
        ("freeze: none", "freeze: [layer1, 'layer2.*']"),
        ("freeze: none", "freeze: {schedule: [{at: 0, freeze: backbone}, {at: 0.5ep, freeze: none}]}"),
        ("freeze: none", "freeze: {schedule: [{at: 0ep, freeze: backbone}, {at: 40st, freeze: none}]}"),
        ("precision: bf16", "compile: on"),
        ("precision: bf16", "compile: off"),
        ("precision: bf16", "feature_cache_gib: 0"),
        ("  mean: [0.5", "  views: 3\n  mean: [0.5"),
    ],
)
def test_what_may_be_written(old: str, new: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, (old, new))) == []


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epochs", "'train.epochs' is not key.path=value; write for example train.epochs=10"),
        ("=3", "'=3' is not key.path=value; write for example train.epochs=10"),
        ("train..epochs=3", "'train..epochs=3' is not key.path=value; write for example train.epochs=10"),
        ("train.epoch=3", "train.epoch: unknown key; did you mean 'epochs'?"),
        ("epochs=3", "epochs: unknown key; valid: {sections}"),
        ("train.\u00b2=3", "train.\u00b2: unknown key; valid: {train}"),
        ("train.epochs=[", "train.epochs: not valid YAML: {open}"),
        ("train.epochs=soon", 'train.epochs: {duration}, not "soon"'),
        ("train.epochs.st=3", "train.epochs.st: train.epochs is one value, it has no st"),
        ("train={epochs: 3}", "train.global_batch: required, but not there"),
        ("train.micro_batch=5", "train.micro_batch: 5 does not divide train.global_batch 32; try 4"),
        ("augment.train.1.op=rotate", "augment.train.1.op: no such op: \"rotate\"; did you mean 'rotation'?"),
        ("augment.train.2.op=resize", "augment.train.2.op: augment.train is a list, it has no 2; valid: 0 to 1"),
        ("augment.train.-1.op=x", "augment.train.-1.op: augment.train is a list, it has no -1; valid: 0 to 1"),
        ("augment.train.op=x", "augment.train.op: augment.train is a list, it has no op; valid: 0 to 1"),
        ("data.split={train: 2.0}", "data.split.train: must be less than 1, not 2.0"),
        ("checkpoint.patience=0", "checkpoint.patience: must be at least 1, not 0"),
        ("checkpoint.patience=null", "checkpoint.patience: should be a whole number, not null"),
        ("checkpoint.patience=1.5", "checkpoint.patience: should be a whole number, not 1.5"),
        ("run.dir=\udcff", "run.dir: not valid YAML: has the character '\\udcff'"),
    ],
    ids=range(20),
)
def test_wrong_override_is_placed_on_the_command_line(override: str, line: str, tmp_path: Path) -> None:
    words = {
        **WORDS,
        "sections": "augment, backbone, checkpoint, data, log, loss, optim, run, schedule, strategy, train",
        "train": "best_metric, epochs, eval_batch, evaluate_every, global_batch, micro_batch, on_nonfinite, patience",
        "open": "expected the node content, but found '<stream end>'",
    }
    assert errors_of(write(tmp_path), (override,)) == [f"command line: {line.format(**words)}"]


def test_wrong_overrides_are_reported_with_the_errors_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, ("lr: 0.1", "lr: 0"))
    assert errors_of(path, ("epochs", "train.epoch=3")) == [
        "command line: 'epochs' is not key.path=value; write for example train.epochs=10",
        "recipe.yaml:19: optim.lr: must be more than 0, not 0",
        "command line: train.epoch: unknown key; did you mean 'epochs'?",
    ]


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        ("seed: 3", "seed: -1"),
        ("weights: DEFAULT", "wieghts: DEFAULT"),
        ("source: digits", "source: digits\n  root: elsewhere"),
        ("op: rotation", "op: rotate"),
        ("lr: 0.1", "lr: fast"),
        ("momentum: 0.9", "momentum: 0\n  nesterov: true"),
        ("{name: cosine, warmup: 1ep}", "{name: linear}"),
        ("micro_batch: 8", "micro_batch: 5"),
        ("precision: bf16", "device: cpu\n  precision: fp16"),
        ("tags: [a, b]", "tags: [1]"),
    )
    assert errors_of(path) == [
        "recipe.yaml:1: run.seed: must be at least 0, not -1",
        "recipe.yaml:4: backbone.wieghts: unknown key; did you mean 'weights'?",
        "recipe.yaml:13: augment.train.1.op: no such op: \"rotate\"; did you mean 'rotation'?",
        'recipe.yaml:20: optim.lr: should be a number, not "fast"',
        'recipe.yaml:23: schedule.name: no such name: "linear"; valid: constant, cosine, onecycle, step',
        "recipe.yaml:32: log.wandb.tags.0: should be text, not 1",
        "recipe.yaml:8: data.root: has no effect on digits, only on torchvision sources",
        "recipe.yaml:30: strategy.precision: fp16 needs CUDA; use bf16 on the CPU",
        "recipe.yaml:27: train.micro_batch: 5 does not divide train.global_batch 32; try 4",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        # Without its misspelt source the data would seem to need a folder and no split.
        ("source: digits", "sorce: digits", "7: data.sorce: unknown key; did you mean 'source'?"),
        ("source: digits", "origin: digits", "7: data.origin: unknown key; valid: {data}"),
        # Without its wrong share the split would seem to have no images to train.
        ("train: 0.8", "train: most", '8: data.split.train: should be a number or rest, not "most"'),
        # Without its wrong size the resize would seem to leave different sizes.
        ("size: [32, 32]", "size: [32, no]", '11: augment.train.0.size.1: should be a whole number, not "no"'),
        ("global_batch: 32", "global_batch: no", '24: train.global_batch: should be a whole number, not "no"'),
        # Without the misspelt head the activation would be there for nothing.
        (
            "freeze: none",
            "head: {hiden: [8], activation: tanh}",
            "5: backbone.head.hiden: unknown key; did you mean 'hidden'?",
        ),
    ],
)
def test_wrong_key_causes_no_contradiction(old: str, new: str, line: str, tmp_path: Path) -> None:
    data = ", ".join(sorted(Data.model_fields)[:12]) + ", ..."
    assert errors_of(write(tmp_path, (old, new))) == [f"recipe.yaml:{line.format(data=data)}"]


def test_contradiction_of_written_keys_is_reported_beside_an_unknown_key(tmp_path: Path) -> None:
    path = write(tmp_path, ("micro_batch: 8", "micro_batch: 5\n  shuffle: true"))
    assert [line.split(": ")[1] for line in errors_of(path)] == ["train.shuffle", "train.micro_batch"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- a\n", ":1: a recipe is sections of 'key: value', not a list"),
        ("42\n", ":1: a recipe is sections of 'key: value', not 42"),
        ("a: &a {b: *a}", ":1: too many values for a recipe"),
        ("[" * 100_000, ":1: too many values inside each other for a recipe"),
        ("a: " + "{a: " * 10_000, ":1: too many values inside each other for a recipe"),
        ("\n" * 300_000, ":1: 300,000 characters: too long for a recipe"),
        ("\n" * 900_000, ": 800,000 bytes or more: too long for a recipe"),
    ],
    ids=["list", "number", "ring", "brackets", "braces", "long", "longer"],
)
def test_what_is_no_recipe_at_all_is_refused_quickly(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.monotonic()
    assert errors_of(path) == [f"recipe.yaml{line}"]
    assert time.monotonic() - start < 5


def test_aliases_that_unfold_without_end_are_refused_quickly(tmp_path: Path) -> None:
    rows = [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 15)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(["b0: &b0 [x, x, x, x, x, x, x, x, x]", *rows]))
    start = time.monotonic()
    assert errors_of(path) == ["recipe.yaml:1: too many values for a recipe"]
    assert time.monotonic() - start < 5


def test_empty_file_lacks_every_required_section(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing yet\n")
    sections = ("backbone", "data", "augment", "optim", "train")
    assert errors_of(path) == [f"recipe.yaml:1: {section}: required, but not there" for section in sections]


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path)
    assert errors_of(tmp_path / "recipes.yaml") == ["recipes.yaml: no such recipe; did you mean 'recipe.yaml'?"]


def test_missing_folder(tmp_path: Path) -> None:
    assert errors_of(tmp_path / "nowhere" / "recipe.yaml") == ["recipe.yaml: no such recipe"]


def test_folder_names_the_recipes_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write(folder)
    assert errors_of(folder) == ["many: is a folder, not a recipe; did you mean 'many/recipe.yaml'?"]


def test_file_as_a_folder(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path) / "recipe.yaml") == ["recipe.yaml: cannot be read: Not a directory"]


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"run:\n  name: \xe9t\xe9\n")
    assert errors_of(path) == ["recipe.yaml:2: not UTF-8 text: byte 0xe9"]


def test_endless_file_is_refused() -> None:
    assert errors_of(Path("/dev/zero")) == ["zero: 800,000 bytes or more: too long for a recipe"]


def test_error_with_line_ends_in_key_and_value_stays_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, ("seed: 3", '"a\\nb": 3'), ("precision: bf16", 'precision: "b\\u2028c"'))
    lines = errors_of(path)
    assert [line.splitlines() for line in lines] == [[line] for line in lines]
    assert lines[0].startswith("recipe.yaml:1: run.a\\nb: unknown key; valid: ")
    assert lines[1] == 'recipe.yaml:27: strategy.precision: no such value: "b\\u2028c"; valid: bf16, fp16, no'


def test_long_wrong_value_is_shortened(tmp_path: Path) -> None:
    [line] = errors_of(write(tmp_path, ("precision: bf16", f"precision: {'b' * 5000}")))
    assert len(line) < 200


def test_no_tag_of_a_recipe_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("object/apply", "object/new", "name", "module", "object"):
        path = write(tmp_path, ("{seed: 3}", f"!!python/{kind}:os.mkdir [executed]"))
        assert errors_of(path) == [
            f"recipe.yaml:1: has the tag !!python/{kind}:os.mkdir; a recipe holds plain values only"
        ]
    assert not (tmp_path / "executed").exists()


def plan_errors(
    folder: Path, *changes: tuple[str, str], processes: int = 1, num_images: dict[str, int] = DIGITS, classes: int = 10
) -> list[str]:
    loaded = load(folder, *changes)
    with pytest.raises(PlanError) as raised:
        make_plan(loaded.recipe, processes, num_images, classes)
    return [line.replace(f"{folder}/", "") for line in loaded.error(raised.value.problems).lines]


def test_global_batch_that_processes_cannot_share(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, processes=3) == [
        "recipe.yaml:24: train.global_batch: 32 cannot be shared equally by 3 processes; try 33"
    ]


def test_lanes_that_processes_cannot_share(tmp_path: Path) -> None:
    lanes = ("source: digits", "source: digits\n  lanes: 16")
    [line] = plan_errors(tmp_path, lanes, processes=6)
    assert line == (
        "recipe.yaml:8: data.lanes: 16 lanes cannot be shared equally by 6 processes; "
        "these numbers of processes can: 1, 2, 4"
    )


def test_micro_batch_that_does_not_divide_the_share_of_a_process(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, processes=8) == [
        "recipe.yaml:25: train.micro_batch: 8 does not divide the 4 images of one process; try 4"
    ]


def test_no_train_split(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, num_images={"train": 0, "test": 5}) == [
        "recipe.yaml:6: data.dir: has no train split; it has test"
    ]


def test_global_batch_larger_than_the_data(tmp_path: Path) -> None:
    [line] = plan_errors(tmp_path, num_images={"train": 31, "valid": 5})
    assert line == (
        "recipe.yaml:24: train.global_batch: 32 is more than the 31 training images; "
        "lower it or set data.last_batch=wrap"
    )


def test_patience_without_a_valid_split(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, ("epochs: 3", "epochs: 3\n  patience: 2"), num_images={"train": 100, "test": 5}) == [
        "recipe.yaml:24: train.patience: has no effect: the data has no valid split; give data.split one"
    ]


def test_top5_of_few_classes(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, ("epochs: 3", "epochs: 3\n  best_metric: top5_frac"), classes=5) == [
        "recipe.yaml:24: train.best_metric: top5_frac is always 1 with 5 classes; use top1_frac or loss"
    ]


def test_bce_of_ten_classes(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, BCE) == [
        "recipe.yaml:16: loss.name: bce needs two classes, the data has 10; use cross_entropy"
    ]


def test_plan_reports_every_reason_at_once(tmp_path: Path) -> None:
    lines = plan_errors(tmp_path, BCE, ("epochs: 3", "epochs: 3\n  patience: 1"), processes=3, num_images={"train": 5})
    assert [line.split(": ")[1] for line in lines] == [
        "train.global_batch",
        "train.global_batch",
        "loss.name",
        "train.patience",
    ]


def test_error_inside_a_list_is_placed_at_the_item(tmp_path: Path) -> None:
    problem = Problem("augment.train.1.degrees", "wrong", ("augment.train.1.degrees",))
    path = write(tmp_path)
    assert load_recipe(path).error([problem]).lines == [f"{path}:12: augment.train.1.degrees: wrong"]
    overridden = load_recipe(path, ["augment.train.1.degrees=5"])
    assert overridden.error([problem]).lines == ["command line: augment.train.1.degrees: wrong"]


def test_error_of_a_default_is_placed_at_its_section(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    lines = loaded.error([Problem("train.patience", "wrong", ()), Problem("checkpoint.every", "wrong", ())]).lines
    assert lines == [f"{loaded.file}:22: train.patience: wrong", f"{loaded.file}:1: checkpoint.every: wrong"]


def test_there_are_at_least_thirty_wrong_recipes() -> None:
    assert len({(old, new) for old, new, _ in WRONG}) == len(WRONG) >= 30
