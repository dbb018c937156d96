from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.recipe.duration import Duration, parse_duration
from tests.recipe.right import QUICK

COUNTS = st.integers(1, 10**9)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30ep", Duration(30, "ep")),
        (" 5000 st ", Duration(5000, "st")),
        ("1000000im", Duration(1_000_000, "im")),
        ("0.5ep", Duration(0.5, "ep")),
        ("2.0st", Duration(2, "st")),
        (30, Duration(30, "ep")),
        (0.25, Duration(0.25, "ep")),
        (0, Duration(0, "ep")),
        (Duration(1, "im"), Duration(1, "im")),
    ],
)
def test_right_duration_is_read(text: object, duration: Duration) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        *("", "ep", "30", "30 epochs", "-1ep", "1e3st", "1_000st", ".5ep", "५ep", "9" * 400 + "ep"),
        *(-1, math.nan, math.inf, 10**400, -(10**400), True, None, [3], {"ep": 3}, b"3ep"),
    ],
    ids=repr,
)
def test_wrong_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"^should be a duration such as 30ep, 5000st or 1000000im$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["1.5st", "0.5im"])
def test_only_epochs_have_fractions(text: object) -> None:
    with pytest.raises(ValueError, match="only epochs may have a fraction"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("3ep", 90),
        ("0.1ep", 3),
        ("0.3ep", 9),
        ("0.11ep", 4),
        ("7st", 7),
        ("64im", 2),
        ("65im", 3),
        ("1im", 1),
        ("0ep", 0),
        ("0.000000000001ep", 1),
    ],
)
def test_steps_are_rounded_up(text: str, steps: int) -> None:
    assert parse_duration(text).steps(steps_per_epoch=30, global_batch=32) == steps


@QUICK
@given(images=COUNTS, global_batch=COUNTS)
def test_images_are_covered_by_the_fewest_steps(images: int, global_batch: int) -> None:
    steps = Duration(images, "im").steps(1, global_batch)
    assert (steps - 1) * global_batch < images <= steps * global_batch


@QUICK
@given(tenths=st.integers(1, 10_000), tens=st.integers(1, 10**6))
def test_decimal_fractions_of_an_epoch_are_exact(tenths: int, tens: int) -> None:
    assert parse_duration(f"{tenths / 10}ep").steps(10 * tens, 1) == tenths * tens


@QUICK
@given(st.floats(0, 1e15, allow_nan=False))
def test_written_duration_is_read_back(value: float) -> None:
    written = str(Duration(value, "ep"))
    assert parse_duration(written) == Duration(value, "ep")


@pytest.mark.parametrize(("value", "text"), [(30.0, "30ep"), (0.5, "0.5ep"), (12345678, "12345678ep"), (100, "100ep")])
def test_duration_is_written_without_a_needless_fraction(value: float, text: str) -> None:
    assert str(Duration(value, "ep")) == text
