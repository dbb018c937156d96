"""Addresses of remote folders, and showing them without what nobody else may see. Pure text."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(\w://)[^/@\s]*:[^/@\s]*@|(https?://)[^/@\s]*@", re.IGNORECASE)
"""`user:password@`, or over http any user. `abfs://container@account` has none."""

_QUERY = re.compile(r"(\w://[^\s?'\"]*\?)[^\s'\"),]*")
"""What follows the question mark: signatures and tokens."""


def is_url(place: str) -> bool:
    """Whether it is an fsspec URL (`s3://bucket/x`, `zip://x::http://host/y.zip`) and not a folder of this machine."""
    return "://" in place


def has_credentials(url: str) -> bool:
    return "?" in url or _PASSWORD.search(url) is not None


def hide_credentials(text: str) -> str:
    """The text, on one line, with `***` where its URLs have a user, a password or a query."""
    hidden = _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***@", " ".join(text.split()))
    return _QUERY.sub(r"\1***", hidden)
