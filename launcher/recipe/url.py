"""URLs of remote folders, and hiding the credentials in them. Pure text."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(\w://)[^/@\s]*:[^/@\s]*@|(https?://)[^/@\s]*@", re.IGNORECASE)
"""`user:password@`; over http any user. `abfs://container@account` has no password."""

_QUERY = re.compile(r"(\w://[^\s?'\"]*\?)[^\s'\"),]*")
"""The part after the question mark: signatures and tokens."""


def is_url(place: str) -> bool:
    """Whether `place` is an fsspec URL (`s3://bucket/x`, `zip://x::http://host/y.zip`), not a local folder."""
    return "://" in place


def has_credentials(url: str) -> bool:
    return "?" in url or _PASSWORD.search(url) is not None


def hide_credentials(text: str) -> str:
    """`text` on one line, with `***` for every user, password and query of its URLs."""
    hidden = _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***@", " ".join(text.split()))
    return _QUERY.sub(r"\1***", hidden)
