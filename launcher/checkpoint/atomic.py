"""Checkpoint folders, each complete or not there: written, found again, pruned. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from launcher.errors import CheckpointError
from shards.files import commit_folder, fsync, write_atomically

HASHES = "hashes.json"
_REPLACED = ".replaced"
READ_BYTES = 1 << 24
"""Bytes per read. Large, since a thread that hashes takes Python's lock from the training twice for each."""


def commit(temporary: Path, final: Path) -> None:
    """Hash every file in `temporary`, then rename it to `final`."""
    hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
    write_atomically(temporary / HASHES, json.dumps(hashes, indent=1).encode())
    before = final.with_name(f".{final.name}{_REPLACED}")
    commit_folder(temporary, final, replaced=before)  # a damaged one, or one saved before its validation was complete
    if before.exists():
        shutil.rmtree(before)


def find_newest(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files all match their hashes. `report` gets a line for each that is skipped."""
    for before in folder.glob(f".step-*{_REPLACED}"):  # killed between the two renames of `commit`
        final = before.with_name(before.name.removeprefix(".").removesuffix(_REPLACED))
        if not final.exists():
            before.rename(final)
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            check_folder(path)
        except CheckpointError as error:
            report(f"{error}; skipped, trying the one before")
        else:
            return path
    return None


def check_folder(path: Path) -> None:
    """Raise CheckpointError naming the first file that is missing or does not match its hash."""
    for name, sha256 in read_hashes(path).items():
        check_file(path / name, sha256)


def check_file(file: Path, sha256: str) -> None:
    try:
        if _sha256(file) == sha256:
            return
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    raise CheckpointError(f"{file}: damaged: it does not match its hash")


def read_hashes(path: Path) -> dict[str, str]:
    try:
        hashes = json.loads((path / HASHES).read_text())
    except (OSError, ValueError):
        hashes = None
    if not isinstance(hashes, dict) or "model.safetensors" not in hashes or any("/" in name for name in hashes):
        raise CheckpointError(f"{path}: no readable {HASHES}")
    return hashes


def prune(folder: Path, newest: str, keep: int) -> None:
    """Delete all but the `keep` newest and the best, and those newer than `newest`: a resume found them damaged."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)
    best = (folder / "best").resolve()
    steps = sorted(folder.glob("step-*"), reverse=True)
    written = [path for path in steps if path.name <= newest]
    for path in {*steps} - {*written[:keep]}:
        if path.resolve() != best:
            # Renamed first: an interrupted deletion leaves nothing that looks like a checkpoint.
            doomed = path.with_name(f".{path.name}.old")
            path.rename(doomed)
            shutil.rmtree(doomed)


def point(folder: Path, name: str, target: str) -> None:
    """Make the link `name` point to `target`, atomically."""
    temporary = folder / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(folder / name)
    fsync(folder)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
