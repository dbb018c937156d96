"""Drawn policies: torchvision's spaces and magnitudes, all operations equally likely."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from torchvision.transforms import v2

from launcher.augment.arrays import FLOAT64, INT64
from launcher.augment.draw import draw_uniforms
from launcher.augment.draw_policy import NUM_BINS, OPERATIONS, SIGNED, draw_policy, rand_magnitudes, trivial_magnitudes

NUM = 4000
SIZES: INT64 = np.tile(np.array([[96, 128]]), (NUM, 1))


@pytest.mark.parametrize(
    ("policy", "magnitudes"), [(v2.RandAugment, rand_magnitudes), (v2.TrivialAugmentWide, trivial_magnitudes)]
)
def test_spaces_and_magnitudes_are_torchvisions(policy: type[v2.Transform], magnitudes: type[FLOAT64]) -> None:
    space = policy._AUGMENTATION_SPACE
    assert [name.lower() for name in space] == [name.replace("_", "") for name in OPERATIONS]
    assert [signed for _, signed in space.values()] == [name in SIGNED for name in OPERATIONS]
    sizes_B2 = np.array([[224, 224], [97, 333], [32, 32], [1, 640]])
    for (height, width), table_On in zip(sizes_B2.tolist(), magnitudes(sizes_B2), strict=True):
        for (function, _), ours_n in zip(space.values(), table_On, strict=True):
            drawn = function(NUM_BINS, height, width)
            theirs_n = np.zeros(NUM_BINS) if drawn is None else drawn.double().numpy()
            # One unit in the last place: torch rounds otherwise on CPUs that multiply and add at once.
            np.testing.assert_allclose(ours_n, theirs_n, rtol=1.2e-7, atol=0)


def drawn(num_ops: int, magnitude: int | None, tables_BOn: FLOAT64) -> tuple[INT64, FLOAT64]:
    return draw_policy(partial(draw_uniforms, 7, 3, np.arange(NUM), 0), tables_BOn, num_ops, magnitude)


def chi_square(counts_n: INT64) -> float:
    expected = counts_n.sum() / len(counts_n)
    return float(((counts_n - expected) ** 2 / expected).sum())


def test_operations_are_equally_likely() -> None:
    choices_BM, magnitudes_BM = drawn(3, 9, rand_magnitudes(SIZES))
    assert choices_BM.shape == magnitudes_BM.shape == (NUM, 3)
    for choices_B in choices_BM.T:
        assert chi_square(np.bincount(choices_B, minlength=len(OPERATIONS))) < 34.5  # 13 degrees of freedom, p = 0.001
    pairs = np.bincount(choices_BM[:, 0] * len(OPERATIONS) + choices_BM[:, 1], minlength=len(OPERATIONS) ** 2)
    assert chi_square(pairs) < 261.0  # 195 degrees of freedom, p = 0.001


def test_signs_and_magnitudes_have_their_distributions() -> None:
    choices_BM, magnitudes_BM = drawn(1, 9, rand_magnitudes(SIZES))
    for choice, name in enumerate(OPERATIONS):
        strengths = magnitudes_BM[choices_BM == choice]
        expected = rand_magnitudes(SIZES[:1])[0, choice, 9]
        assert set(np.abs(strengths).tolist()) == {expected}
        share = float((strengths < 0).mean())
        assert abs(share - 0.5) < 0.12 if name in SIGNED else share == 0


def test_trivial_augment_draws_magnitudes_uniformly() -> None:
    choices_BM, magnitudes_BM = drawn(1, None, trivial_magnitudes(SIZES))
    bits, counts = np.unique(magnitudes_BM[choices_BM == OPERATIONS.index("posterize")], return_counts=True)
    assert bits.tolist() == [2, 3, 4, 5, 6, 7, 8]
    turns = magnitudes_BM[choices_BM == OPERATIONS.index("rotate")]
    assert counts.min() > 0
    assert turns.min() < -120 < 120 < turns.max()
    every = drawn(1, None, np.tile(np.arange(31.0), (NUM, len(OPERATIONS), 1)))[1]
    assert chi_square(np.bincount(np.abs(every[:, 0]).astype(np.int64), minlength=31)) < 59.7  # 30 degrees, p = 0.001
