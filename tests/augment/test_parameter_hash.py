"""Every image has the hash of what was done to it, in whatever batches and however far ahead that was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from launcher.augment.draw import INT64
from launcher.augment.images import packed_images_of
from launcher.augment.mix import Mix
from launcher.augment.parameter_hash import HASH_BYTES, Hashes, NullParameterHashes, ParameterHashes
from launcher.augment.pipeline import build_augment
from tests.data.made import recipe_of

TRAIN = [{"op": "random_resized_crop", "size": 8}, {"op": "horizontal_flip"}, {"op": "color_jitter", "hue": 0.1}]
OPS = recipe_of(augment={"train": TRAIN, "eval": [{"op": "center_crop", "size": 8}]}).augment.train
IDS = np.array([7, 3, 11, 4])


def augmented(ids_B: INT64, seed: int = 0, epoch: int = 2) -> Hashes:
    witness = ParameterHashes()
    augment = replace(build_augment(OPS, (0.5,) * 3, (0.5,) * 3), record=witness.record)
    images_BCHW = torch.zeros(len(ids_B), 3, 16, 12, dtype=torch.uint8)
    augment(packed_images_of(images_BCHW), ids_B, seed, epoch)
    return witness.take(ids_B, epoch)


def mixed(seed: int) -> Hashes:
    witness = ParameterHashes()
    mix = Mix((("cutmix", 1.0), ("mixup", 0.2)), 1.0, 3, witness.record)
    mix(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), IDS, seed, 2)
    return witness.take(IDS, 2)


def test_a_hash_is_the_images_own() -> None:
    whole_BD = augmented(IDS)
    assert whole_BD.shape == (4, HASH_BYTES)
    assert len({row.tobytes() for row in whole_BD}) == 4
    assert np.array_equal(np.concatenate([augmented(IDS[:1]), augmented(IDS[1:])]), whole_BD)
    assert np.array_equal(augmented(IDS[::-1])[::-1], whole_BD)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 3}])
def test_other_parameters_have_another_hash(other: dict[str, int]) -> None:
    assert (augmented(IDS) != augmented(IDS, **other)).any(axis=1).all()


def test_mixing_is_told_too() -> None:
    assert np.array_equal(mixed(0), mixed(0))
    assert (mixed(0) != mixed(1)).any(axis=1).all()


def test_a_batch_is_asked_for_after_others_were_told_and_is_then_forgotten() -> None:
    witness = ParameterHashes()
    values = np.arange(4)
    for epoch in (0, 1):
        witness.record(IDS, epoch, [values + 10 * epoch, np.ones((4, 2, 3), dtype=bool)])
    witness.record(IDS[:1], 0, [np.array([99]), np.ones((1, 2, 3), dtype=bool)])  # a second time in an epoch that wraps
    first, later, second = witness.take(IDS, 0), witness.take(IDS, 1), witness.take(IDS[:1], 0)
    assert len({row.tobytes() for row in (*first, *later, *second)}) == 9
    assert not witness.take(IDS, 0).any()


def test_nothing_to_tell_is_a_hash_too() -> None:
    witness = ParameterHashes()
    witness.record(IDS, 0, [])
    witness.record(IDS, 1, [np.zeros((4, 0))])
    assert witness.take(IDS, 0).any(axis=1).all()
    assert witness.take(IDS, 1).any(axis=1).all()


def test_nobody_asks() -> None:
    witness = NullParameterHashes()
    witness.record(IDS, 0, [np.arange(4)])
    assert witness.take(IDS, 0).shape == (4, 0)
