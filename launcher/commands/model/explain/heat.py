"""A heat map blended over an image: red is evidence for the class, blue against it. H x W pixels, C channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]

FULL_PERCENTILE = 98
"""Percentile of the magnitudes at which a color is strongest, so that one pixel cannot make all others pale."""
STRONGEST = 0.7
"""Share of the color there; the rest is the image."""
FOR = (220, 30, 30)
AGAINST = (30, 60, 220)


def blend(pixels_HWC: Pixels, heat_HW: Heat) -> Pixels:
    """The blended pixels of the same size; a copy of the image where there is no heat at all."""
    magnitudes_HW = np.abs(heat_HW)
    full = float(np.percentile(magnitudes_HW, FULL_PERCENTILE)) or float(magnitudes_HW.max())
    if full == 0:
        return pixels_HWC.copy()
    alpha_HW1 = STRONGEST * np.minimum(magnitudes_HW / full, 1)[..., None]
    colors_HWC = np.where(heat_HW[..., None] > 0, FOR, AGAINST)
    blended: Pixels = ((1 - alpha_HW1) * pixels_HWC + alpha_HW1 * colors_HWC).round().astype(np.uint8)
    return blended
