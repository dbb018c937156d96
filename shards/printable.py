"""Text from files, made safe to show: it cannot move the cursor, change colors or begin a line."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with line ends, control and direction characters, and invalid characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
