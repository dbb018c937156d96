"""The operations that a policy applies to each image, and their magnitudes: torchvision's spaces, drawn per image.

Pure NumPy, as `draw`. Shapes: B images; M operations one after another; M3 numbers for each.
A choice is a row of OPERATIONS. Magnitudes are torchvision's, with their sign; 0 where the operation has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from launcher.augment.arrays import FLOAT64, INT64, Uniforms
from launcher.recipe.augment_pixels import RandAugment, TrivialAugment

NUM_BINS = 31
"""Magnitudes of each operation: torchvision's default, and that of both papers."""
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
    return _tables(len(sizes_B2), {**_RAND_TOPS, **moves}, posterized_bits=4)


def trivial_magnitudes(sizes_B2: INT64) -> FLOAT64:
    """Magnitudes of TrivialAugment Wide (Mueller, Hutter 2021), magnitudes_BOn."""
    return _tables(len(sizes_B2), _TRIVIAL_TOPS, posterized_bits=6)


_ENHANCED = ("brightness", "color", "contrast", "sharpness")
_RAND_TOPS = {**dict.fromkeys(("shear_x", "shear_y"), 0.3), "rotate": 30.0, **dict.fromkeys(_ENHANCED, 0.9)}
_TRIVIAL_TOPS = {
    **dict.fromkeys(("shear_x", "shear_y", *_ENHANCED), 0.99),
    **dict.fromkeys(("translate_x", "translate_y"), 32.0),
    "rotate": 135.0,
}


def _tables(batch: int, tops: Mapping[str, float | FLOAT64], posterized_bits: int) -> FLOAT64:
    """`tops`: largest magnitude of an operation, of all images or of each."""
    tables_BOn = np.zeros((batch, len(OPERATIONS), NUM_BINS))
    for name, top in tops.items():
        tables_BOn[:, OPERATIONS.index(name)] = _evenly(0.0, top)
    bits_n = np.round(8 - posterized_bits * np.arange(NUM_BINS) / (NUM_BINS - 1))
    tables_BOn[:, OPERATIONS.index("posterize")] = bits_n
    tables_BOn[:, OPERATIONS.index("solarize")] = _evenly(1.0, 0.0)
    return tables_BOn


def _evenly(first: float, last: float | FLOAT64) -> FLOAT64:
    """NUM_BINS numbers from first to last as `torch.linspace` has them: float32, counted from the nearer end.

    A threshold that is off by 1e-7 gives another level.
    """
    first_1, last_B1 = np.float32(first), np.asarray(last, dtype=np.float32)[..., None]
    step_B1 = (last_B1 - first_1) / np.float32(NUM_BINS - 1)
    bins_n = np.arange(NUM_BINS, dtype=np.float32)
    upwards_Bn, downwards_Bn = first_1 + step_B1 * bins_n, last_B1 - step_B1 * bins_n[::-1]
    return np.where(bins_n < NUM_BINS // 2, upwards_Bn, downwards_Bn).astype(np.float64)


def rand_augment(op: RandAugment, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Choices and magnitudes side by side: parameters_BN, N is twice the number of operations."""
    return np.concatenate(draw_policy(uniforms, rand_magnitudes(sizes_B2), op.num_ops, op.magnitude), axis=1)


def trivial_augment(op: TrivialAugment, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Choice and magnitude side by side: parameters_B2."""
    return np.concatenate(draw_policy(uniforms, trivial_magnitudes(sizes_B2), 1, None), axis=1)


def draw_policy(uniforms: Uniforms, tables_BOn: FLOAT64, num_ops: int, magnitude: int | None) -> tuple[INT64, FLOAT64]:
    """Choices_BM and magnitudes_BM for M = `num_ops`; `magnitude` is the bin, None draws one.

    Three numbers for each operation of an image: the choice, the magnitude, the sign.
    """
    uniforms_BM3 = uniforms(num_ops * 3).reshape(-1, num_ops, 3)
    choices_BM = np.floor(uniforms_BM3[..., 0] * len(OPERATIONS)).astype(np.int64)
    bins_BM = np.floor(uniforms_BM3[..., 1] * NUM_BINS).astype(np.int64) if magnitude is None else magnitude
    magnitudes_BM = tables_BOn[np.arange(len(tables_BOn))[:, None], choices_BM, bins_BM]
    is_signed = np.isin(OPERATIONS, SIGNED)
    is_negative_BM = is_signed[choices_BM] & (uniforms_BM3[..., 2] < 0.5)
    return choices_BM, np.where(is_negative_BM, -magnitudes_BM, magnitudes_BM)
