"""Text from files, shown on a terminal: what is in it must not move the cursor, change colours or begin a line."""

from __future__ import annotations


def printable(text: str) -> str:
    """Line ends, control and direction characters, and what is no character at all, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
