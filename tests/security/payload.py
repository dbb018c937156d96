"""A pickle that leaves a mark when it is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Payload:
    """Makes the folder `mark` when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.mkdir, (str(self.mark),)


def payload_bytes(mark: Path) -> bytes:
    """The pickle, after a check that it works: loading it makes `mark`, which is then removed."""
    content = pickle.dumps(Payload(mark))
    pickle.loads(content)
    assert mark.is_dir()
    mark.rmdir()
    return content
