"""Types of NumPy arrays; their shapes are in the names of variables, as `sizes_B2`. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

BOOL = npt.NDArray[np.bool_]
FLOAT32 = npt.NDArray[np.float32]
FLOAT64 = npt.NDArray[np.float64]
INT64 = npt.NDArray[np.int64]
UINT8 = npt.NDArray[np.uint8]
Parameters = npt.NDArray[Any]
"""Parameters of one operation: a row for each image, of any shape and type."""
Uniforms = Callable[[int], FLOAT64]
"""How many numbers per image -> uniforms_BN, in [0, 1)."""
