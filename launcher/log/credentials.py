"""Whether W&B can log in without asking anybody: the places where wandb itself looks."""

from __future__ import annotations

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


def has_wandb_credentials(environment: Mapping[str, str]) -> bool:
    """A key or token in the environment, or a password for W&B's host (and port) in netrc."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        path = Path(environment.get("NETRC") or "~/.netrc").expanduser()
        found = netrc.netrc(str(path)).authenticators(host)
    except (OSError, ValueError, RuntimeError, netrc.NetrcParseError):  # unreadable, not text, no home, no netrc
        return False
    return found is not None and bool(found[2])
