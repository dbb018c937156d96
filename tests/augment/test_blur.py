"""Noise that is a function of its key; blur and erasing beyond what `test_parity` compares."""

from __future__ import annotations

import numpy as np
import torch

from launcher import keyed_random
from launcher.augment import blur
from tests.augment.parity import IMAGES_BCHW

KEYS = torch.tensor([5, 2**53 - 1, 0, 123456789])


def test_mix_equals_that_of_keyed_random() -> None:
    words = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000)
    with np.errstate(over="ignore"):
        expected = keyed_random.mix(words.astype(np.uint64)).astype(np.int64)
    assert np.array_equal(blur.mix(torch.tensor(words)).numpy(), expected)


def test_normal_numbers_are_normal_and_uncorrelated() -> None:
    numbers = blur.normal_numbers(KEYS, 200_001).double()
    moments = [float((numbers**power).mean()) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.03)
    assert 4.3 < float(numbers.max()) < 4.4
    correlations = torch.corrcoef(torch.cat([numbers, numbers.roll(1, 1), numbers.roll(2, 1)]))
    assert float((correlations - torch.eye(12)).abs().max()) < 0.01


def test_normal_numbers_depend_on_key_and_place_only() -> None:
    numbers = blur.normal_numbers(KEYS, 103)
    assert torch.equal(blur.normal_numbers(KEYS[2:3], 103)[0], numbers[2])
    assert torch.equal(blur.normal_numbers(KEYS, 10), numbers[:, :10])
    assert len(set(numbers[:, 0].tolist())) == len(KEYS)


def test_normal_numbers_never_change() -> None:
    expected = [-1.8635, 0.1595, 1.4378, -0.6906]
    torch.testing.assert_close(blur.normal_numbers(KEYS[:1], 4)[0], torch.tensor(expected), atol=1e-4, rtol=0)


def test_noise_has_its_standard_deviation_and_is_clamped() -> None:
    gray = torch.full((2, 3, 100, 100), 127.5)
    noisy = blur.add_noise(gray, KEYS[:2], torch.tensor([0.1, 0.001]))
    np.testing.assert_allclose(noisy.std(dim=(1, 2, 3)).numpy(), [25.5, 0.255], rtol=0.02)
    loud = blur.add_noise(gray, KEYS[:2], torch.ones(2))
    assert (float(loud.min()), float(loud.max())) == (0, 255)


def test_a_blur_of_one_pixel_changes_nothing() -> None:
    images_BCHW = IMAGES_BCHW.float().contiguous(memory_format=torch.channels_last)
    assert torch.equal(blur.gaussian_blur(images_BCHW, torch.ones(2, 1)), images_BCHW)
    kernels_BK = torch.tensor([[0.0, 1.0, 0.0]] * 2)
    assert torch.equal(blur.gaussian_blur(images_BCHW, kernels_BK), images_BCHW)


def test_each_image_is_erased_in_its_own_box_and_color() -> None:
    boxes_B4 = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]])
    erased = blur.erase(torch.ones(2, 3, 6, 7), boxes_B4, torch.tensor([[9.0, 9, 9], [2, 3, 4]]))
    assert (erased[0] == 1).all()
    assert (erased[1, :, 1:4, 2:6] == torch.tensor([2.0, 3, 4])[:, None, None]).all()
    assert int((erased[1] != 1).sum()) == 3 * 3 * 4
