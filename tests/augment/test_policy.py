"""Policies: several operations one after another, each image its own. `test_parity` compares pixels."""

from __future__ import annotations

import numpy as np
import torch

from launcher.augment.draw_policy import OPERATIONS, rand_magnitudes
from launcher.augment.pixels import apply_policy
from tests.augment.parity import HEIGHT, IMAGES_BCHW, WIDTH

UNCHANGED = {"posterize": 8.0, "solarize": 1.1}
CHANGING = ("autocontrast", "equalize")
"""Operations that have no magnitude."""


def test_identity_and_magnitudes_of_zero_change_nothing() -> None:
    names = [name for name in OPERATIONS if name not in CHANGING]
    choices_BM = np.array([[OPERATIONS.index(name)] for name in names])
    magnitudes_BM = np.array([[UNCHANGED.get(name, 0.0)] for name in names])
    images_BCHW = IMAGES_BCHW[:1].float().expand(len(names), -1, -1, -1)
    assert float((apply_policy(images_BCHW, choices_BM, magnitudes_BM, "bilinear") - images_BCHW).abs().max()) <= 0.02


def test_operations_follow_one_another_for_each_image() -> None:
    num = len(OPERATIONS)
    choices_BM = np.stack([np.arange(num), (np.arange(num) * 5 + 3) % num], axis=1)
    table_On = rand_magnitudes(np.array([[HEIGHT, WIDTH]]))[0]
    magnitudes_BM = table_On[choices_BM, 9]
    images_BCHW = IMAGES_BCHW.float().repeat(num // 2, 1, 1, 1)
    together_BCHW = apply_policy(images_BCHW, choices_BM, magnitudes_BM, "nearest")
    for row in range(num):
        alone_1CHW = images_BCHW[row : row + 1]
        for choice, magnitude in zip(choices_BM[row], magnitudes_BM[row], strict=True):
            alone_1CHW = apply_policy(alone_1CHW, np.array([[choice]]), np.array([[magnitude]]), "nearest")
        torch.testing.assert_close(alone_1CHW[0], together_BCHW[row], atol=1e-3, rtol=0)
