"""Lengths of training in a recipe: `30` or `30ep` epochs, `5000st` optimizer steps, `1000000im` images."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

Unit = Literal["ep", "st", "im"]

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ep|st|im)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Duration:
    """A length in epochs (`ep`), optimizer steps (`st`) or training images (`im`); never negative."""

    value: float
    unit: Unit

    def __str__(self) -> str:
        """The text in a recipe, without loss: `parse_duration` reads the same length back."""
        digits = format(Decimal(repr(self.value)), "f")
        return f"{digits.removesuffix('.0')}{self.unit}"

    def steps(self, steps_per_epoch: int, global_batch: int) -> int:
        """Whole optimizer steps, rounded up; 0 only for a length of 0."""
        per_unit = {"ep": Fraction(steps_per_epoch), "st": Fraction(1), "im": Fraction(1, global_batch)}[self.unit]
        # The decimal number in the recipe, exactly: as floats, 0.1 epochs of 30 steps would round up to 4 steps.
        return math.ceil(Fraction(repr(self.value)) * per_unit)


def parse_duration(text: object) -> Duration:
    """Read `30ep`, `5000st`, `1000000im` or a bare number of epochs. Raise ValueError for anything else."""
    if isinstance(text, Duration):
        return text
    unit: Unit = "ep"
    number = math.nan
    if isinstance(text, str) and (match := _PATTERN.fullmatch(text.strip())) is not None:
        number, unit = float(match[1]), match[2]  # type: ignore[assignment]
    elif isinstance(text, int | float) and not isinstance(text, bool):
        number = float(text) if abs(text) < 1e300 else math.inf
    if not math.isfinite(number) or number < 0:
        raise ValueError("should be a duration such as 30ep, 5000st or 1000000im")
    if unit != "ep" and number != int(number):
        raise ValueError("should be a whole number of steps or images; only epochs may have a fraction")
    return Duration(number, unit)
