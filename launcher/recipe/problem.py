"""A problem in a recipe, and the value that would work instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    """Dotted key to change."""
    message: str
    """One line: what is wrong, and what works."""
    others: tuple[str, ...] = ()
    """Dotted keys that the problem depends on, too."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every key involved."""
        return (self.path, *self.others)


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is at most `at_most`: a batch or number of lanes to propose."""
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)
