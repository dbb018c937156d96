"""Colors of a heat map."""

from __future__ import annotations

import numpy as np

from launcher.commands.model.explain.heat import AGAINST, FOR, STRONGEST, blend

GRAY_HWC = np.full((10, 10, 3), 100, dtype=np.uint8)


def test_blend_is_red_for_blue_against_and_the_image_where_there_is_no_heat() -> None:
    heat_HW = np.zeros((10, 10), dtype=np.float32)
    heat_HW[:3], heat_HW[-3:] = 2, -2
    blended_HWC = blend(GRAY_HWC, heat_HW)
    for row, color in ((0, FOR), (9, AGAINST)):
        wanted = [round((1 - STRONGEST) * 100 + STRONGEST * level) for level in color]
        assert blended_HWC[row, 0].tolist() == wanted
    assert (blended_HWC[4:6] == 100).all()


def test_one_hot_pixel_does_not_make_the_others_pale() -> None:
    heat_HW = np.ones((10, 10), dtype=np.float32)
    expected_HWC = blend(GRAY_HWC, heat_HW)
    heat_HW[0, 0] = 1000
    assert (blend(GRAY_HWC, heat_HW) == expected_HWC).all()


def test_heat_of_few_pixels_shows_and_no_heat_changes_nothing() -> None:
    heat_HW = np.zeros((10, 10), dtype=np.float32)
    assert (blend(GRAY_HWC, heat_HW) == GRAY_HWC).all()
    heat_HW[5, 5] = 1e-6
    assert (blend(GRAY_HWC, heat_HW)[5, 5] != 100).all()
