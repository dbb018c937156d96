"""What is wrong with a recipe, and where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """`path`: the key to change, dotted. `paths`: every key involved, `path` among them."""

    path: str
    what: str
    paths: tuple[str, ...]
