"""Random numbers that are a function of their key: (seed, epoch, sample id, stream) -> always the same number.

There is no generator state to save, and any number can be computed again on any machine, in any order.
The mixing step is SplitMix64's finaliser (Steele, Lea, Flood 2014), applied to each part of the key. Needs no torch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UINT64 = npt.NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


def mix(x: UINT64) -> UINT64:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every input bit moves every output bit."""
    x = x + _GAMMA
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLY_1
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLY_2
    return x ^ (x >> np.uint64(31))


def bits(seed: int, *parts: int | npt.NDArray[np.int64]) -> UINT64:
    """64 random bits for each key; integer parts and arrays of them broadcast against each other.

    The seed is mixed twice: mixed once, seed and first part could be exchanged, and equal ones would cancel.
    """
    with np.errstate(over="ignore"):
        state = mix(mix(np.atleast_1d(np.asarray(seed, dtype=np.int64)).astype(np.uint64)))
        for part in parts:
            state = mix(state ^ mix(np.asarray(part, dtype=np.int64).astype(np.uint64)))
    return state


def uniform(seed: int, *parts: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each key, with 53 random bits."""
    return (bits(seed, *parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(num: int, seed: int, *parts: int) -> npt.NDArray[np.int64]:
    """A random order of `range(num)` for this key, the same in every version of NumPy."""
    return np.argsort(bits(seed, *parts, np.arange(num, dtype=np.int64)), kind="stable")
