"""Version of the code and its libraries: tells runs of the same recipe apart."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

TIMEOUT_S = 10
"""Longest wait for git, which may wait for a disk."""

PACKAGES = ("torch", "torchvision", "accelerate", "wandb")


def read_versions() -> dict[str, str]:
    """Package -> version."""
    return {"launcher": version("launcher") + find_commit(Path(__file__).parent)} | {p: version(p) for p in PACKAGES}


def find_commit(package: Path) -> str:
    """`+3f9a1c2` when the package's files are in git, `+3f9a1c2.dirty` when they have changed since; else nothing."""
    if _run_git(package, "ls-files", "--error-unmatch", "__init__.py") is None:  # a venv inside a repository
        return ""
    commit = _run_git(package, "rev-parse", "--short", "HEAD")
    changes = _run_git(package, "status", "--porcelain", "--untracked-files=no", ".")
    return f"+{commit}{'.dirty' if changes else ''}" if commit else ""


def _run_git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None when it fails or is missing."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
