"""Whether W&B can log in without a question to the user: the places where wandb itself looks."""

from __future__ import annotations

import netrc
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


def has_wandb_credentials(environment: Mapping[str, str]) -> bool:
    """Whether there is a key or token in the environment, or a password for W&B's host (and port) in netrc.

    A netrc that others than its owner may write to does not count: its key could be somebody else's, and the run would
    go to their account. No key is ever written anywhere.
    """
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        path = Path(environment.get("NETRC") or "~/.netrc").expanduser()
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
        found = netrc.netrc(str(path)).authenticators(host)
    except (OSError, ValueError, RuntimeError, netrc.NetrcParseError):  # unreadable, not text, no home, no netrc
        return False
    return found is not None and bool(found[2])
