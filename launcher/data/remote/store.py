"""Files at any fsspec URL, read in parts, with retries. The only importer of fsspec.

fsspec and its libraries find credentials in their own files and environment variables; no URL with a password is ever
written or shown. Needs no torch.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Any

import fsspec

from launcher.data.reader import Traffic
from launcher.errors import FetchError, UserError
from launcher.recipe.url import hide_credentials

REQUEST_S = 60.0
"""Time limit of a request."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0

INSTALL = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""Protocol -> extra of this package that installs its library."""

_LOGGER = logging.getLogger("launcher")

_RANDOM = random.Random()
"""Unseeded, unlike the global one: processes must pause for different times."""


class UnreachableError(FetchError):
    """All tries failed."""


class RemoteStore:
    """Files at a URL. `traffic`: downloads so far."""

    def __init__(self, url: str, max_tries: int) -> None:
        """Raise UserError when this kind of URL cannot be read here."""
        self.url = hide_credentials(url.rstrip("/"))
        self.max_tries = max_tries
        self.traffic = Traffic()
        self._lock = threading.Lock()
        protocol = url.partition("://")[0]
        try:
            self._files, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            extra = f"'launcher[{INSTALL[protocol]}]'" if protocol in INSTALL else f"the library for {protocol}://"
            raise UserError(
                f"data.dir: {self.url}: pip install {extra} first ({hide_credentials(str(error))})"
            ) from None
        except Exception as error:  # the libraries' own, about settings that they do not understand
            why = hide_credentials(str(error))
            raise UserError(
                f"data.dir: {self.url}: cannot be opened ({why}); correct it, or give a local folder"
            ) from None
        self._path = path.rstrip("/")

    def place(self, name: str) -> str:
        return f"{self.url}/{name}"

    def read(
        self, name: str, start: int, num_bytes: int, least_bytes: int | None = None, max_tries: int | None = None
    ) -> bytes:
        """At least one and at most `num_bytes` from `start` on; each failure halves the request, down to `least_bytes`.

        A server without range requests sends the whole file. Raise UnreachableError after `max_tries` (None: those of
        this store), FetchError when retrying is pointless.
        """
        last, least = max_tries or self.max_tries, min(least_bytes or num_bytes, num_bytes)
        tries = 0
        while True:
            tries += 1
            try:
                part: bytes = self._request(name, start, start + max(num_bytes >> (tries - 1), least))
                if part:
                    with self._lock:
                        self.traffic.num_bytes += len(part)
                    return part
                why = "empty response"
            except Exception as error:  # each library has its own
                why = hide_credentials(str(error)) or type(error).__name__
                if _is_final(error):
                    raise FetchError(
                        f"{self.place(name)}: cannot be read ({why}); check data.dir and its permissions"
                    ) from None
            if tries >= last:
                what = f"cannot be read after {tries} tries ({why})"
                raise UnreachableError(f"{self.place(name)}: {what}; once it can, the same command resumes")
            self.note_retry(f"{self.place(name)}: {why}")
            time.sleep(min(FIRST_PAUSE_S * 2 ** (tries - 1), LONGEST_PAUSE_S) * _RANDOM.uniform(0.5, 1.0))

    def _request(self, name: str, start: int, end: int) -> Any:
        # Only asynchronous file systems, whose requests can be cancelled, take a timeout.
        limit = {"timeout": REQUEST_S} if self._files.async_impl else {}
        return self._files.cat_file(f"{self._path}/{name}", start=start, end=end, **limit)

    def count_shard(self) -> None:
        with self._lock:
            self.traffic.num_shards += 1

    def note_retry(self, what: str) -> None:
        with self._lock:
            self.traffic.num_retries += 1
            is_first = self.traffic.num_retries == 1
        if is_first:
            _LOGGER.warning("%s; retrying, further retries are not logged", what)


def _is_final(error: Exception) -> bool:
    """Whether retrying is pointless."""
    status = getattr(error, "status", None)  # aiohttp
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    return isinstance(error, FileNotFoundError | PermissionError) or "Credential" in type(error).__name__
