"""Keys and values that the schema refuses, each as an override of the right recipe, and the one line a user sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.schema import Data
from tests.recipe.right import errors_of, write

DURATION = "should be a duration such as 30ep, 5000st or 1000000im"
SGD = "backbone_lr, clip_norm, ema_decay, layer_decay, lr, momentum, name, nesterov, weight_decay"
SECTIONS = "augment, backbone, checkpoint, data, log, loss, optim, run, schedule, strategy, train"
TRAIN = "best_metric, epochs, eval_batch, evaluate_every, global_batch, micro_batch, on_nonfinite, patience"

WRONG_KEYS = [
    ("rum={seed: 3}", "rum: unknown key; did you mean 'run'?"),
    ("epochs=3", f"epochs: unknown key; valid: {SECTIONS}"),
    ("train.epoch=3", "train.epoch: unknown key; did you mean 'epochs'?"),
    ("train.\u00b2=3", f"train.\u00b2: unknown key; valid: {TRAIN}"),
    ("augment.train.0={op: resize, sise: 3}", "augment.train.0.sise: unknown key; did you mean 'size'?"),
    ("augment.train.0={op: resize}", "augment.train.0.size: required, but missing"),
    ("augment.train.1.angle=3", "augment.train.1.angle: unknown key; valid: degrees, interpolation, op"),
    ("optim.beta1=0.9", f"optim.beta1: unknown key; valid: {SGD}"),
    ("optim={name: sgd}", "optim.lr: required, but missing"),
    ("data.split={train: 0.8, vaild: rest}", "data.split.vaild: unknown key; did you mean 'valid'?"),
    ("log.wandb.mod=offline", "log.wandb.mod: unknown key; did you mean 'mode'?"),
    ("train={epochs: 3}", "train.global_batch: required, but missing"),
    ("augment.mixup={}", "augment.mixup.alpha: required, but missing"),
]

WRONG_VALUES = [
    ("train.epochs=5min", f'train.epochs: {DURATION}, not "5min"'),
    ("train.epochs=soon", f'train.epochs: {DURATION}, not "soon"'),
    ("train.epochs=", f"train.epochs: {DURATION}, not null"),
    ("train.epochs=-3", f"train.epochs: {DURATION}, not -3"),
    ("train.epochs=0", "train.epochs: must be longer than 0, not 0"),
    (
        "train.epochs=1.5st",
        'train.epochs: should be a whole number of steps or images; only epochs may have a fraction, not "1.5st"',
    ),
    ("train.global_batch=1e3", "train.global_batch: should be a whole number, not 1000.0"),
    ("train.global_batch=0", "train.global_batch: must be at least 1, not 0"),
    ("train.global_batch=many", 'train.global_batch: should be a whole number, not "many"'),
    ("run.seed=4294967296", "run.seed: must be less than 4294967296, not 4294967296"),
    (
        "run.name=my run",
        "run.name: must be letters, digits, '.', '_' and '-', a letter or digit first, not \"my run\"",
    ),
    ("run.deterministic=yes", 'run.deterministic: should be true or false, not "yes"'),
    ("run.dir=''", 'run.dir: must not be empty, not ""'),
    ("run=3", "run: should be a section with keys, not 3"),
    ("optim.lr=-0.1", "optim.lr: must be more than 0, not -0.1"),
    ("optim.lr=.nan", "optim.lr: must be a finite number, not NaN"),
    ("optim.lr=[0.1]", "optim.lr: should be a number, not a list"),
    ("optim.momentum=1", "optim.momentum: must be less than 1, not 1"),
    ("optim.backbone_lr=0", "optim.backbone_lr: must be more than 0, not 0"),
    ("optim.layer_decay=1.0", "optim.layer_decay: must be less than 1, not 1.0"),
    ("optim.layer_decay=0.0", "optim.layer_decay: must be more than 0, not 0.0"),
    ("strategy.precision=fp61", "strategy.precision: no such value: \"fp61\"; did you mean 'fp16'?"),
    ("strategy.precision=16", "strategy.precision: no such value: 16; valid: bf16, fp16, no"),
    ("strategy.compile=maybe", 'strategy.compile: no such value: "maybe"; valid: auto, off, on'),
    ("strategy.compile=true", "strategy.compile: no such value: true; valid: auto, off, on"),
    ("strategy.feature_cache_gib=-1", "strategy.feature_cache_gib: must be at least 0, not -1"),
    ("strategy.feature_cache_gib=all", 'strategy.feature_cache_gib: should be a number, not "all"'),
    ("strategy.hang_timeout_s=0.5", "strategy.hang_timeout_s: must be at least 1, not 0.5"),
    ("strategy.hang_timeout_s=.inf", "strategy.hang_timeout_s: must be a finite number, not Infinity"),
    ("strategy.hang_timeout_s=long", 'strategy.hang_timeout_s: should be a number, not "long"'),
    ("backbone.name=18", "backbone.name: should be text, not 18"),
    ("log.wandb.tags=a", 'log.wandb.tags: should be a list, not "a"'),
    ("log.wandb.tags=[a, 1]", "log.wandb.tags.1: should be text, not 1"),
    ("data.classes=[a]", "data.classes: needs at least 2 values, not 1"),
    ("data.split.train=most", 'data.split.train: should be a number or rest, not "most"'),
    ("data.split.train=1.5", "data.split.train: must be less than 1, not 1.5"),
    ("data.split={train: 2.0}", "data.split.train: must be less than 1, not 2.0"),
    ("data.lanes=0", "data.lanes: must be at least 1, not 0"),
    ("data.lanes=auto", 'data.lanes: should be a whole number, not "auto"'),
    ("augment.train.0.size=big", 'augment.train.0.size: should be a whole number or a list, not "big"'),
    ("augment.train.0.size=[32]", "augment.train.0.size: needs more values than 1"),
    ("augment.train.0.size=[32, 32, 3]", "augment.train.0.size: needs at most 2 values, not 3"),
    ("augment.train.0.size=[32, 0]", "augment.train.0.size.1: must be at least 1, not 0"),
    ("augment.train.1.degrees=200", "augment.train.1.degrees: must be at most 180, not 200"),
    (
        "augment.mean=datset",
        "augment.mean: should be a list or dataset, not \"datset\"; did you mean 'dataset'?",
    ),
    ("augment.views=0", "augment.views: must be at least 1, not 0"),
    ("augment.views=2.5", "augment.views: should be a whole number, not 2.5"),
    ("augment.mixup=0.2", "augment.mixup: should be a section with keys, not 0.2"),
    ("augment.cutmix={alpha: 0}", "augment.cutmix.alpha: must be more than 0, not 0"),
    ("checkpoint.patience=0", "checkpoint.patience: must be at least 1, not 0"),
    ("checkpoint.patience=null", "checkpoint.patience: should be a whole number, not null"),
    ("checkpoint.patience=1.5", "checkpoint.patience: should be a whole number, not 1.5"),
]

WRONG_KINDS = [
    ("augment.train.1.op=rotate", "augment.train.1.op: no such op: \"rotate\"; did you mean 'rotation'?"),
    ("augment.train.1={degrees: 10}", "augment.train.1.op: required, but missing: it names the operation"),
    ("augment.train.1=rotation", 'augment.train.1: should be a section with keys, not "rotation"'),
    (
        "augment.eval=[{op: random_crop, size: 32}]",
        "augment.eval.0.op: random_crop is random, for augment.train only; valid: center_crop, resize",
    ),
    ("optim.name=adamm", "optim.name: no such name: \"adamm\"; did you mean 'adam'?"),
    ("optim={lr: 0.1, momentum: 0.9}", "optim.name: required, but missing: it names the kind"),
    ("schedule.name=linear", 'schedule.name: no such name: "linear"; valid: constant, cosine, onecycle, step'),
    ("schedule=cosine", 'schedule: should be a section with keys, not "cosine"'),
]

WRONG_FREEZE = [
    ("backbon", ": no such value: \"backbon\"; did you mean 'backbone'?"),
    ("3", ": no such value: 3; valid: backbone, none"),
    ("", ": no such value: null; valid: backbone, none"),
    ("{except_last: 0}", ".except_last: must be at least 1, not 0"),
    ("{except_last: some}", '.except_last: should be a whole number, not "some"'),
    ("{except_first: 1}", ".except_first: unknown key; did you mean 'except_last'?"),
    ("{}", ".except_last: required, but missing"),
    ("[]", ": needs at least 1 value, not 0"),
    ("[layer1, '']", '.1: must not be empty, not ""'),
    ("[layer1, 2]", ".1: should be text, not 2"),
    ("{schedule: []}", ".schedule: needs at least 1 value, not 0"),
    ("{schedule: backbone}", '.schedule: should be a list, not "backbone"'),
    ("{schedule: [{at: 0}]}", ".schedule.0.freeze: required, but missing"),
    ("{schedule: [{at: 0, frees: none}]}", ".schedule.0.frees: unknown key; did you mean 'freeze'?"),
    (
        "{schedule: [{at: 0, freeze: nothing}]}",
        '.schedule.0.freeze: no such value: "nothing"; valid: backbone, none',
    ),
    ("{schedule: [{at: soon, freeze: none}]}", f'.schedule.0.at: {DURATION}, not "soon"'),
    (
        "{schedule: [{at: 0, freeze: {except_last: 0}}]}",
        ".schedule.0.freeze.except_last: must be at least 1, not 0",
    ),
]

WRONG = [
    *WRONG_KEYS,
    *WRONG_VALUES,
    *WRONG_KINDS,
    *((f"backbone.freeze={freeze}", f"backbone.freeze{message}") for freeze, message in WRONG_FREEZE),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_wrong_recipe_gets_one_line(override: str, message: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path), (override,)) == [f"command line: {message}"]


def test_wrong_recipes_are_all_different() -> None:
    assert len({override for override, _ in WRONG}) == len(WRONG) >= 80


def test_right_recipe_has_no_errors(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path)) == []


@pytest.mark.parametrize(
    "override",
    [
        "backbone.freeze={except_last: 2}",
        "backbone.freeze=[layer1, 'layer2.*']",
        "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 0.5ep, freeze: none}]}",
        "backbone.freeze={schedule: [{at: 0ep, freeze: backbone}, {at: 40st, freeze: none}]}",
        "strategy.compile=on",
        "strategy.compile=off",
        "strategy.feature_cache_gib=0",
        "augment.views=3",
    ],
)
def test_right_values_have_no_errors(override: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path), (override,)) == []


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
        # Without the misspelt head the activation would seem to have no effect.
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


def test_contradiction_of_given_keys_is_reported_beside_an_unknown_key(tmp_path: Path) -> None:
    lines = errors_of(write(tmp_path), ("train.micro_batch=5", "train.shuffle=true"))
    assert [line.split(": ")[1] for line in lines] == ["train.shuffle", "train.micro_batch"]


def test_message_about_a_key_and_a_value_with_line_ends_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, ("seed: 3", '"a\\nb": 3'), ("precision: bf16", 'precision: "b\\u2028c"'))
    lines = errors_of(path)
    assert [line.splitlines() for line in lines] == [[line] for line in lines]
    assert lines[0].startswith("recipe.yaml:1: run.a\\nb: unknown key; valid: ")
    assert lines[1] == 'recipe.yaml:27: strategy.precision: no such value: "b\\u2028c"; valid: bf16, fp16, no'


def test_long_wrong_value_is_shortened(tmp_path: Path) -> None:
    [line] = errors_of(write(tmp_path), (f"strategy.precision={'b' * 5000}",))
    assert len(line) < 200
