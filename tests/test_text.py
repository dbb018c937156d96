from __future__ import annotations

import pytest

from launcher.text import first_line, one_line, show_bytes, show_count, show_duration


def test_white_space_becomes_single_blanks() -> None:
    assert one_line(ValueError("two\n  lines\t and  more ")) == "two lines and more"
    assert one_line("") == ""


def test_the_first_line_of_an_error_is_its_message_or_its_class() -> None:
    assert first_line(ValueError("\nfirst\nsecond")) == "first"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3_565_158, "3.4 MiB"),
        (2**30, "1.0 GiB"),
        (2**41, "2,048.0 GiB"),
    ],
)
def test_bytes_have_the_largest_unit_below_them(num_bytes: int, text: str) -> None:
    assert show_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (12.3, "12 s"), (99, "99 s"), (100, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (345_600, "4.0 d")],
)
def test_durations_have_a_unit_that_keeps_them_short(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


def test_counts_are_singular_or_plural() -> None:
    assert [show_count(number, "image") for number in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
    assert show_count(2, "process") == "2 processes"
