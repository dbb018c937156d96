from __future__ import annotations

import pytest

from launcher.recipe.problem import Problem, largest_divisor


@pytest.mark.parametrize(
    ("number", "at_most", "divisor"), [(32, 7, 4), (32, 24, 16), (32, 32, 32), (32, 100, 32), (7, 6, 1), (1, 1, 1)]
)
def test_largest_divisor_is_at_most_the_limit(number: int, at_most: int, divisor: int) -> None:
    assert largest_divisor(number, at_most) == divisor


def test_problem_involves_its_key_and_the_others() -> None:
    assert Problem("a.b", "wrong").paths == ("a.b",)
    assert Problem("a.b", "wrong", ("c", "d.e")).paths == ("a.b", "c", "d.e")
