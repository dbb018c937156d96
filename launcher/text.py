"""Numbers and errors as text for the user."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
"""Shows a line to the user."""


def one_line(error: object) -> str:
    """An error's message, or any text, on one line: each run of white space becomes one blank."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def show_count(number: int, noun: str) -> str:
    """`1 image`, `1,200 images`, `2 processes`."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def show_bytes(num_bytes: int) -> str:
    """`897 bytes`, `3.4 MiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes} bytes"


def show_duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2.5 h`, `4.0 d`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"
