"""The operations that a policy applies to each image, and their magnitudes: torchvision's spaces, drawn per image.

Pure NumPy, as `draw`. Shapes: B images; M operations one after another; M3 numbers for each.
A choice is a row of OPERATIONS. Magnitudes are torchvision's, with their sign; 0 where the operation has none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from launcher.augment.arrays import FLOAT64, INT64

NUM_BINS = 31
"""Magnitudes of each operation: torchvision's default, and that of both papers."""
POLICY_NUMBERS = 3
"""Uniform numbers for each operation of an image: the choice, the magnitude, the sign."""

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""Operations of both policies, all equally likely; names as torchvision's."""
SIGNED = OPERATIONS[1:10]
"""Operations whose magnitude is negative with probability 1/2."""


def rand_magnitudes(sizes_B2: INT64) -> FLOAT64:
    """Magnitudes of RandAugment (Cubuk et al. 2019), magnitudes_BOn: for each image, operation and one of NUM_BINS."""
    heights_B, widths_B = sizes_B2.T
    moves = {"translate_x": 150 / 331 * widths_B, "translate_y": 150 / 331 * heights_B}
    rows = {name: np.full(len(sizes_B2), top) for name, top in _RAND_TOPS.items()} | moves
    return _tables(len(sizes_B2), rows, posterized_bits=4)


def trivial_magnitudes(sizes_B2: INT64) -> FLOAT64:
    """Magnitudes of TrivialAugment Wide (Mueller, Hutter 2021), magnitudes_BOn."""
    rows = {name: np.full(len(sizes_B2), top) for name, top in _TRIVIAL_TOPS.items()}
    return _tables(len(sizes_B2), rows, posterized_bits=6)


_ENHANCED = ("brightness", "color", "contrast", "sharpness")
_RAND_TOPS = {**dict.fromkeys(("shear_x", "shear_y"), 0.3), "rotate": 30.0, **dict.fromkeys(_ENHANCED, 0.9)}
_TRIVIAL_TOPS = {
    **dict.fromkeys(("shear_x", "shear_y", *_ENHANCED), 0.99),
    **dict.fromkeys(("translate_x", "translate_y"), 32.0),
    "rotate": 135.0,
}


def _tables(batch: int, tops_B: dict[str, FLOAT64], posterized_bits: int) -> FLOAT64:
    tables_BOn = np.zeros((batch, len(OPERATIONS), NUM_BINS))
    for name, top_B in tops_B.items():
        tables_BOn[:, OPERATIONS.index(name)] = _evenly(np.zeros_like(top_B), top_B)
    bits_n = np.round(8 - posterized_bits * np.arange(NUM_BINS) / (NUM_BINS - 1))
    tables_BOn[:, OPERATIONS.index("posterize")] = bits_n
    tables_BOn[:, OPERATIONS.index("solarize")] = _evenly(np.ones(1), np.zeros(1))
    return tables_BOn


def _evenly(first_B: FLOAT64, last_B: FLOAT64) -> FLOAT64:
    """NUM_BINS numbers from first to last as `torch.linspace` has them: float32, counted from the nearer end.

    A threshold that is off by 1e-7 gives another level.
    """
    first_B1, last_B1 = first_B.astype(np.float32)[:, None], last_B.astype(np.float32)[:, None]
    step_B1 = (last_B1 - first_B1) / np.float32(NUM_BINS - 1)
    bins_n = np.arange(NUM_BINS, dtype=np.float32)
    upwards_Bn, downwards_Bn = first_B1 + step_B1 * bins_n, last_B1 - step_B1 * bins_n[::-1]
    return np.where(bins_n < NUM_BINS // 2, upwards_Bn, downwards_Bn).astype(np.float64)


def draw_policy(
    uniforms: Callable[[int], FLOAT64], tables_BOn: FLOAT64, num_ops: int, magnitude: int | None
) -> tuple[INT64, FLOAT64]:
    """Choices_BM and magnitudes_BM for M = `num_ops`; `magnitude` is the bin, None draws one."""
    uniforms_BM3 = uniforms(num_ops * POLICY_NUMBERS).reshape(-1, num_ops, POLICY_NUMBERS)
    choices_BM = np.floor(uniforms_BM3[..., 0] * len(OPERATIONS)).astype(np.int64)
    bins_BM = np.floor(uniforms_BM3[..., 1] * NUM_BINS).astype(np.int64) if magnitude is None else magnitude
    magnitudes_BM = tables_BOn[np.arange(len(tables_BOn))[:, None], choices_BM, bins_BM]
    is_signed = np.isin(OPERATIONS, SIGNED)
    is_negative_BM = is_signed[choices_BM] & (uniforms_BM3[..., 2] < 0.5)
    return choices_BM, np.where(is_negative_BM, -magnitudes_BM, magnitudes_BM)
