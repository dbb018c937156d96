"""Pictures one by one: the network gets of each what a validation would give it."""

from __future__ import annotations

from pathlib import Path

import torch

from launcher.augment.pipeline import build_augment
from launcher.data.reader import ShardReader
from launcher.infer import to_input
from shards.manifest import read_manifest
from tests.frozen_run import Place, plain_images


def test_it_is_what_a_validation_sees(place: Place) -> None:
    ops = "augment.eval=[{op: resize, size: 24}, {op: center_crop, size: 20}]"
    loaded = place.load(ops)
    augment = loaded.recipe.augment
    mean, std = augment.normalisation((0, 0, 0), (1, 1, 1))
    built = build_augment(augment.eval_ops, mean, std)
    wanted_BCHW, _ = plain_images(loaded, "valid")
    reader = ShardReader(Path("shards"), read_manifest(Path("shards")), "valid")
    for number, wanted_CHW in enumerate(wanted_BCHW):
        sample = reader.read(number)
        assert torch.equal(to_input(sample, built)[0], wanted_CHW)
