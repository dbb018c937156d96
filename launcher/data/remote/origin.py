"""Files at any fsspec URL, read in parts, again and again where a line fails. The only importer of fsspec.

Who may read there is known to fsspec and the libraries below it, from their own files and environment variables; no
address with a password is ever written down or shown. Needs no torch.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from typing import Any

import fsspec

from launcher.data.reader import Traffic
from launcher.errors import FetchError, UserError
from launcher.recipe.url import hide_credentials

ANSWER_S = 60.0
"""How long a request may take."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0

INSTALL = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""Protocol -> extra of this package that brings its library."""

_LOGGER = logging.getLogger("launcher")

_RANDOM = random.Random()
"""Not the one that others may have given a seed: processes are to wait for different times."""


class UnreachableError(FetchError):
    """Nothing came after all tries."""


class RemoteStore:
    """Files at a URL, read in parts, again and again where a line fails. `traffic`: what it cost so far."""

    def __init__(self, url: str, max_tries: int) -> None:
        """Raise UserError when the URL is of no kind that can be read here."""
        self.url = hide_credentials(url.rstrip("/"))
        self.max_tries = max_tries
        self.traffic = Traffic()
        self._lock = threading.Lock()
        protocol = url.partition("://")[0]
        try:
            self._files, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            extra = f"'launcher[{INSTALL[protocol]}]'" if protocol in INSTALL else f"what {protocol}:// needs"
            raise UserError(
                f"data.dir: {self.url}: pip install {extra} first ({hide_credentials(str(error))})"
            ) from None
        except Exception as error:  # the libraries' own, of settings that they do not understand
            why = hide_credentials(str(error))
            raise UserError(f"data.dir: {self.url}: cannot be read ({why}); mend it, or name a folder") from None
        self._path = path.rstrip("/")

    def place(self, name: str) -> str:
        return f"{self.url}/{name}"

    def read(
        self, name: str, start: int, num_bytes: int, least_bytes: int | None = None, max_tries: int | None = None
    ) -> bytes:
        """At most `num_bytes` from `start` on, at least one. After failures fewer, never below `least_bytes`.

        A server that knows no ranges answers with the whole file. Raise UnreachableError after `max_tries` (None: those
        of this origin), FetchError when more would be no use.
        """
        last, least = max_tries or self.max_tries, min(least_bytes or num_bytes, num_bytes)
        for tries in itertools.count(1):
            try:
                part: bytes = self._ask(name, start, start + max(num_bytes >> (tries - 1), least))
                if part:
                    with self._lock:
                        self.traffic.num_bytes += len(part)
                    return part
                why = "nothing came"
            except Exception as error:  # each library has its own
                why = hide_credentials(str(error)) or type(error).__name__
                if _is_final(error):
                    raise FetchError(
                        f"{self.place(name)}: cannot be had ({why}); see data.dir, and who may read it"
                    ) from None
            if tries >= last:
                what = f"cannot be had after {tries} tries ({why})"
                raise UnreachableError(f"{self.place(name)}: {what}; when it can, the same command goes on")
            self.note_retry(f"{self.place(name)}: {why}")
            time.sleep(min(FIRST_PAUSE_S * 2 ** (tries - 1), LONGEST_PAUSE_S) * _RANDOM.uniform(0.5, 1.0))
        raise AssertionError

    def _ask(self, name: str, start: int, end: int) -> Any:
        # Only those whose requests can be ended take the time.
        limit = {"timeout": ANSWER_S} if self._files.async_impl else {}
        return self._files.cat_file(f"{self._path}/{name}", start=start, end=end, **limit)

    def count_shard(self) -> None:
        with self._lock:
            self.traffic.num_shards += 1

    def note_retry(self, what: str) -> None:
        with self._lock:
            self.traffic.num_retries += 1
            is_news = self.traffic.num_retries == 1
        if is_news:
            _LOGGER.warning("%s; trying again, as from now on without a word", what)


def _is_final(error: Exception) -> bool:
    """Whether another try is no use."""
    status = getattr(error, "status", None)  # aiohttp
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    return isinstance(error, FileNotFoundError | PermissionError) or "Credential" in type(error).__name__
