"""A pickle that, when it is loaded the trusting way, leaves a mark."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Payload:
    """Makes the folder `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.mkdir, (str(self.mark),)


def payload_bytes(mark: Path) -> bytes:
    """The pickle, shown to work: loading it makes `mark`, which is then taken away again."""
    content = pickle.dumps(Payload(mark))
    pickle.loads(content)
    assert mark.is_dir()
    mark.rmdir()
    return content
