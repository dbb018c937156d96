"""Every image has the hash of its own parameters, in any batches and however far ahead they were recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from launcher.augment.arrays import INT64
from launcher.augment.execute import build_augment
from launcher.augment.images import packed_images_of
from launcher.augment.mix import Mix
from launcher.augment.parameter_hash import HASH_BYTES, NullParameterHashes, ParameterHashes, ParamHashes
from tests.data.made import recipe_of

TRAIN = [{"op": "random_resized_crop", "size": 8}, {"op": "horizontal_flip"}, {"op": "color_jitter", "hue": 0.1}]
OPS = recipe_of(augment={"train": TRAIN, "eval": [{"op": "center_crop", "size": 8}]}).augment.train
IDS = np.array([7, 3, 11, 4])


def augmented(ids_B: INT64, seed: int = 0, epoch: int = 2) -> ParamHashes:
    hashes = ParameterHashes()
    augment = replace(build_augment(OPS, (0.5,) * 3, (0.5,) * 3), hashes=hashes)
    images_BCHW = torch.zeros(len(ids_B), 3, 16, 12, dtype=torch.uint8)
    augment(packed_images_of(images_BCHW), ids_B, seed, epoch)
    return hashes.take(ids_B, epoch)


def mixed(seed: int) -> ParamHashes:
    hashes = ParameterHashes()
    mix = Mix((("cutmix", 1.0), ("mixup", 0.2)), 1.0, 3, hashes)
    mix(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), IDS, seed, 2)
    return hashes.take(IDS, 2)


def test_a_hash_does_not_depend_on_the_rest_of_the_batch() -> None:
    whole_BD = augmented(IDS)
    assert whole_BD.shape == (4, HASH_BYTES)
    assert len({row.tobytes() for row in whole_BD}) == 4
    assert np.array_equal(np.concatenate([augmented(IDS[:1]), augmented(IDS[1:])]), whole_BD)
    assert np.array_equal(augmented(IDS[::-1])[::-1], whole_BD)


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 3}])
def test_other_parameters_have_another_hash(other: dict[str, int]) -> None:
    assert (augmented(IDS) != augmented(IDS, **other)).any(axis=1).all()


def test_mixing_is_hashed_too() -> None:
    assert np.array_equal(mixed(0), mixed(0))
    assert (mixed(0) != mixed(1)).any(axis=1).all()


def test_hashes_of_a_batch_are_taken_after_others_were_recorded_and_then_forgotten() -> None:
    hashes = ParameterHashes()
    values = np.arange(4)
    for epoch in (0, 1):
        hashes.record(IDS, epoch, [values + 10 * epoch, np.ones((4, 2, 3), dtype=bool)])
    hashes.record(IDS[:1], 0, [np.array([99]), np.ones((1, 2, 3), dtype=bool)])  # a second time in an epoch that wraps
    first, later, second = hashes.take(IDS, 0), hashes.take(IDS, 1), hashes.take(IDS[:1], 0)
    assert len({row.tobytes() for row in (*first, *later, *second)}) == 9
    assert not hashes.take(IDS, 0).any()


def test_no_parameters_have_a_hash_too() -> None:
    hashes = ParameterHashes()
    hashes.record(IDS, 0, [])
    hashes.record(IDS, 1, [np.zeros((4, 0))])
    assert hashes.take(IDS, 0).any(axis=1).all()
    assert hashes.take(IDS, 1).any(axis=1).all()


def test_null_hashes_have_no_bytes() -> None:
    hashes = NullParameterHashes()
    hashes.record(IDS, 0, [np.arange(4)])
    assert hashes.take(IDS, 0).shape == (4, 0)
