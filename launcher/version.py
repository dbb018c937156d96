"""Which code it is: what tells two runs apart whose recipes are the same."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

TIMEOUT_S = 10
"""Of git, which may wait for a disk."""

PACKAGES = ("torch", "torchvision", "accelerate", "wandb")


def read_versions() -> dict[str, str]:
    """Package -> version."""
    return {"launcher": version("launcher") + find_commit(Path(__file__).parent)} | {p: version(p) for p in PACKAGES}


def find_commit(package: Path) -> str:
    """`+3f9a1c2` where the package's files are in git, `+3f9a1c2.dirty` where they have changed since; else nothing."""
    if _ask_git(package, "ls-files", "--error-unmatch", "__init__.py") is None:  # a venv inside another's repository
        return ""
    commit = _ask_git(package, "rev-parse", "--short", "HEAD")
    changes = _ask_git(package, "status", "--porcelain", "--untracked-files=no", ".")
    return f"+{commit}{'.dirty' if changes else ''}" if commit else ""


def _ask_git(folder: Path, *words: str) -> str | None:
    """None where git is not there, or says no."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
