"""`launcher cache`: list and remove the features in data/features. No link is followed. Needs no torch."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.data.features.format import METADATA_NAME, ROOT
from launcher.errors import EXIT_DONE, UserError, nearest
from launcher.run.console import Console
from launcher.run.folder import read_json
from launcher.text import show_bytes, show_duration

NAME = re.compile(r"[0-9a-f]{24}|\.[0-9a-f]{24}-.+")
"""Names of folders of features, and of those that features are computed into. Any other folder is not ours."""
LEFTOVER_S = 600.0
"""Seconds without a write after which an unfinished folder is left over from a process that has ended."""
COLUMNS = ("key", "backbone", "split", "view", "images", "values", "size", "last written")


@dataclass(frozen=True)
class Entry:
    """A folder, or a link to one. `age_s`: seconds since the last write in it."""

    path: Path
    num_bytes: int
    age_s: float

    @property
    def is_finished(self) -> bool:
        return not self.path.name.startswith(".")


def list_features() -> int:
    console, entries = Console(), _find(ROOT)
    if entries:
        console.columns(COLUMNS, [_row(entry) for entry in entries])
    console.say(f"{ROOT}: {show_bytes(sum(entry.num_bytes for entry in entries))} of features")
    return EXIT_DONE


def remove_features(key: str | None, everything: bool, root: Path = ROOT) -> int:
    """Remove one entry, or all, and what processes that have ended left unfinished.

    Raise UserError when `key` begins no key or several, and when something cannot be removed.
    """
    if bool(key) == everything:
        raise UserError("cache rm: give a key of launcher cache ls, or the beginning of one, or --all")
    console, entries, freed = Console(), _find(root), 0
    finished = [entry for entry in entries if entry.is_finished]
    chosen = [entry for entry in finished if entry.path.name.startswith(key or "")]
    if key and len(chosen) > 1:
        raise UserError(f"cache rm {key}: {len(chosen)} keys begin like this; give more of the key")
    if key and not chosen:
        beginnings = {entry.path.name[: len(key)] for entry in finished}
        raise UserError(f"cache rm {key}: no such key in {root}{nearest(key, beginnings)}")
    for entry in (*chosen, *(entry for entry in entries if not entry.is_finished)):
        if not entry.is_finished and entry.age_s <= LEFTOVER_S:
            console.say(f"kept {entry.path}, which was written to in the last {show_duration(LEFTOVER_S)}")
        else:
            _remove(entry.path)
            freed += entry.num_bytes
            console.say(f"removed {entry.path}, {show_bytes(entry.num_bytes)}")
    console.say(f"freed {freed:,} bytes")
    return EXIT_DONE


def _find(root: Path) -> list[Entry]:
    """The folders and links of ours, the oldest first."""
    try:
        entries = [_measure(path) for path in root.iterdir() if NAME.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({error.strerror})") from None
    return sorted(entries, key=lambda entry: (-entry.age_s, entry.path))


def _measure(path: Path) -> Entry:
    try:
        files = [] if path.is_symlink() else [file.lstat() for file in path.rglob("*")]
        written_s = max(stat.st_mtime for stat in (path.lstat(), *files))
    except FileNotFoundError:  # another process is at work on it
        return Entry(path, 0, 0.0)
    return Entry(path, sum(file.st_size for file in files), max(time.time() - written_s, 0.0))


def _remove(path: Path) -> None:
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            # Renamed first: a removal that is cut short leaves nothing that looks like features.
            shutil.rmtree(path.rename(path.with_name(f".{path.name.lstrip('.')}-{secrets.token_hex(4)}")))
    except FileNotFoundError:
        pass  # another process has removed it
    except OSError as error:
        raise UserError(f"{path}: cannot be removed ({error.strerror})") from None


def _row(entry: Entry) -> tuple[str, ...]:
    is_link = entry.path.is_symlink()
    if is_link or not entry.is_finished:
        cells: tuple[str, ...] = ("a link, not followed" if is_link else "unfinished", "", "", "", "")
    else:
        cells = _describe(read_json(entry.path / METADATA_NAME))
    return entry.path.name, *cells, show_bytes(entry.num_bytes), f"{show_duration(entry.age_s)} ago"


def _describe(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Backbone, split, view, images and values."""
    try:
        drawn, layout = metadata["drawn"], metadata["layout"]
        view = "" if drawn is None else f"{int(drawn['view']) + 1}"
        values = ", ".join(f"{' x '.join(map(str, value['shape']))} {value['dtype']}" for value in layout["values"])
        return str(metadata["backbone"]), str(metadata["split"]), view, f"{layout['num_images']:,}", values
    except (ValueError, KeyError, TypeError):
        return "not readable", "", "", "", ""
