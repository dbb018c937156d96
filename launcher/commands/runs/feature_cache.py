"""`launcher cache`: what is kept in data/features, listed and removed. Needs no torch."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.data.features.format import METADATA_NAME, ROOT
from launcher.errors import EXIT_DONE, UserError, nearest
from launcher.run.console import Console
from launcher.text import show_bytes

KEY = re.compile(r"[0-9a-f]{24}")
TEMPORARY = re.compile(r"\.[0-9a-f]{24}-.+")
"""Names of folders that features are computed into; other names are not ours."""

LEFTOVER_S = 600.0
"""A temporary folder that nothing was written to for so long is of a process that has ended."""

COLUMNS = ("key", "backbone", "split", "view", "images", "values", "size", "age")


@dataclass(frozen=True)
class Entry:
    """A folder, or a link to one. `changed_s`: newest time in it, as time.time() counts."""

    path: Path
    num_bytes: int
    changed_s: float

    @property
    def is_leftover(self) -> bool:
        return time.time() - self.changed_s > LEFTOVER_S


def list_features(root: Path = ROOT) -> int:
    """Print a table of what is there."""
    console = Console()
    entries, temporary = _find(root, KEY), _find(root, TEMPORARY)
    if entries:
        console.columns(COLUMNS, [_row(entry) for entry in entries])
    size = show_bytes(sum(entry.num_bytes for entry in entries))
    console.say(f"{root}: features of {_count(len(entries), 'split')}, {size}")
    if temporary:
        size = show_bytes(sum(entry.num_bytes for entry in temporary))
        console.say(f"{_count(len(temporary), 'unfinished computation')}, {size}: running, or removed by the next rm")
    return EXIT_DONE


def remove_features(key: str | None, everything: bool, root: Path = ROOT) -> int:
    """Remove one, or all, and say how many bytes that frees.

    Raise UserError when `key` begins no key or several, and when something cannot be removed.
    """
    if bool(key) == everything:
        raise UserError("cache rm: give a key, of which the beginning is enough, or --all; see launcher cache ls")
    console = Console()
    entries = _find(root, KEY)
    chosen = [_choose(key, entries, root)] if key else entries
    for entry in chosen:
        _remove(entry, root)
        console.say(f"removed {entry.path}, {show_bytes(entry.num_bytes)}")
    freed = sum(entry.num_bytes for entry in chosen) + _remove_leftovers(root, console.say)
    console.say(f"freed {freed:,} bytes")
    return EXIT_DONE


def _find(root: Path, pattern: re.Pattern[str]) -> list[Entry]:
    """Those of our names, the oldest first."""
    try:
        found = [_measure(path) for path in root.iterdir() if pattern.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{root}: cannot be read ({error.strerror})") from None
    return sorted((entry for entry in found if entry is not None), key=lambda entry: (entry.changed_s, entry.path))


def _measure(path: Path) -> Entry | None:
    """None for what another process has removed meanwhile. Nothing that a link points to is looked at."""
    try:
        files = [] if path.is_symlink() else [file.lstat() for file in path.rglob("*")]
        own = path.lstat()
    except FileNotFoundError:
        return None
    num_bytes = sum(file.st_size for file in files)
    return Entry(path, num_bytes, max(stat.st_mtime for stat in (own, *files)))


def _choose(key: str, entries: list[Entry], root: Path) -> Entry:
    names = [entry.path.name for entry in entries]
    if not names:
        raise UserError(f"cache rm {key}: there are no features in {root}")
    matching = [entry for entry in entries if entry.path.name.startswith(key)]
    if not matching:
        raise UserError(f"cache rm {key}: no such key{_nearest_beginning(key, names)}")
    if len(matching) > 1:
        shown = ", ".join(entry.path.name for entry in matching[:4]) + (", ..." if len(matching) > 4 else "")
        raise UserError(f"cache rm {key}: begins {len(matching)} keys ({shown}); give more of the one you mean")
    return matching[0]


def _nearest_beginning(key: str, names: list[str]) -> str:
    """Compared with as much of each name as was given; the whole name is what is suggested."""
    whole = {name[: len(key)]: name for name in names}
    hint = nearest(key, whole)
    for beginning, name in whole.items():
        hint = hint.replace(f"'{beginning}'", f"'{name}'")
    return hint if "did you mean" in hint else nearest(key, names)


def _remove_leftovers(root: Path, say: Callable[[str], None]) -> int:
    """Bytes freed. What may still be written to stays."""
    freed = 0
    for entry in _find(root, TEMPORARY):
        if entry.is_leftover:
            _remove(entry, root)
            freed += entry.num_bytes
        else:
            say(f"{entry.path}: left alone, something was written to it in the last {LEFTOVER_S / 60:.0f} minutes")
    return freed


def _remove(entry: Entry, root: Path) -> None:
    path = entry.path
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            # Renamed first: a removal that is cut short leaves nothing that looks like features.
            doomed = path if path.name.startswith(".") else path.rename(root / f".{path.name}-{'0' * 8}")
            shutil.rmtree(doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be removed ({error.strerror})") from None


def _row(entry: Entry) -> tuple[str, ...]:
    age, size = _show_age(time.time() - entry.changed_s), show_bytes(entry.num_bytes)
    if entry.path.is_symlink():
        return (entry.path.name, "a link, not followed", *[""] * 4, size, age)
    try:
        metadata = json.loads((entry.path / METADATA_NAME).read_text(encoding="utf-8"))
        return (entry.path.name, *_describe(metadata), size, age)
    except (OSError, ValueError, KeyError, TypeError):
        return (entry.path.name, "not readable", *[""] * 4, size, age)


def _describe(metadata: dict[str, Any]) -> tuple[str, ...]:
    """Backbone, split, view, images and values."""
    drawn, layout = metadata["drawn"], metadata["layout"]
    view = "" if drawn is None else f"{int(drawn['view']) + 1}"
    values = ", ".join(f"{' x '.join(map(str, value['shape']))} {value['dtype']}" for value in layout["values"])
    return str(metadata["backbone"]), str(metadata["split"]), view, f"{layout['num_images']:,}", values


def _show_age(age_s: float) -> str:
    for unit, length_s in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if age_s >= 2 * length_s:
            return f"{age_s / length_s:.0f} {unit}"
    return f"{max(age_s, 0):.0f} seconds"


def _count(num: int, what: str) -> str:
    return f"{num:,} {what}{'' if num == 1 else 's'}"
