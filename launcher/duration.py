"""Lengths of training as a recipe writes them: `30` or `30ep` epochs, `5000st` optimizer steps, `1000000im` images."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["ep", "st", "im"]

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ep|st|im)")


@dataclass(frozen=True, slots=True)
class Duration:
    """A length in epochs (`ep`), optimizer steps (`st`) or training images (`im`); never negative."""

    value: float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}" if self.value < 1e6 else f"{self.value:.0f}{self.unit}"

    def steps(self, steps_per_epoch: int, global_batch: int) -> int:
        """Whole optimizer steps, rounded up; 0 only for a length of 0."""
        per_unit = {"ep": float(steps_per_epoch), "st": 1.0, "im": 1.0 / global_batch}[self.unit]
        # 1e-9: 0.1 epochs of 30 steps are 3 steps, not the 4 that 3.0000000000000004 would round up to.
        return math.ceil(self.value * per_unit - 1e-9)


def parse_duration(text: object, bare: Unit = "ep") -> Duration:
    """Read `30ep`, `5000st`, `1000000im` or a bare number, which is in the unit `bare`.

    Raise ValueError with the reason when `text` is none of these.
    """
    if isinstance(text, Duration):
        return text
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise ValueError(f"not a duration: {text!r}; write 30ep, 5000st or 1000000im")
    if isinstance(text, str):
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"not a duration: '{text}'; write 30ep, 5000st or 1000000im")
        number, unit = float(match[1]), match[2]
    else:
        number, unit = float(text), bare
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"not a duration: {text!r} is not a finite length of 0 or more")
    if unit != "ep" and number != int(number):
        raise ValueError(f"not a duration: {text!r}; only epochs may have a fraction")
    return Duration(number, unit)  # type: ignore[arg-type]
