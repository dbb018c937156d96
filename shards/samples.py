"""The samples of a tar, from its headers alone: one image and one label each, grouped by the WebDataset rule.

The key of a member is its path up to the first dot of its base name; neighbors with the same key are one sample.
Nothing is ever extracted: links, sparse files and folders are ignored, and a name is only a name, whatever its dots.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.images import FORMATS
from shards.manifest import ShardsError

LABEL_FIELDS = ("label", "cls", "class", "class_id")
"""Fields of a JSON member that may contain the label; the first one present counts."""

Label = int | str
"""A class number or a class name."""

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar. `extension`: everything after the key's dot, in lower case; `offset`: first byte of its data."""

    key: str
    extension: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """A sample: the place of its image in the tar, and its label as written."""

    key: str
    offset: int
    size: int
    label: Label


def read_records(tar: Path, label_field: str | None) -> tuple[list[Record], list[str]]:
    """The tar's samples in order, and a line `KEY: message` for each without an image or a label.

    `label_field`: the only JSON field to read. Raise ShardsError when the tar is truncated or damaged.
    """
    records: list[Record] = []
    problems: list[str] = []
    with tar.open("rb") as file:
        for key, neighbors in itertools.groupby(read_members(tar), key=lambda member: member.key):
            members = list(neighbors)
            try:
                records.append(_read_record(file, key, members, label_field))
            except ShardsError as error:
                problems.append(f"{key}: {error}")
    return records, problems


def read_members(tar: Path) -> Iterator[Member]:
    """Regular files with an extension, in order. Raise ShardsError when the tar lacks its end mark."""
    try:
        with tarfile.open(tar, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                name = _NAME.match(info.name)
                if name and info.isreg() and not info.issparse() and not re.match(r"__[^/]*__($|/)", info.name):
                    yield Member(name[1], name[2].lower(), info.offset_data, info.size)
            end = archive.offset
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ShardsError(f"{tar.name}: truncated or not a tar, {tar.stat().st_size} bytes: {error}") from None
    with tar.open("rb") as file:
        file.seek(end)
        last = file.read(tarfile.BLOCKSIZE)
    if len(last) < tarfile.BLOCKSIZE:
        raise ShardsError(f"{tar.name}: truncated at byte {end + len(last)}, the end mark is missing")
    if last.strip(b"\0"):
        raise ShardsError(f"{tar.name}: damaged header at byte {end}")


def _read_record(file: BinaryIO, key: str, members: Sequence[Member], label_field: str | None) -> Record:
    repeated = len(members) - len({member.extension for member in members})
    if repeated:
        raise ShardsError(f"duplicate key, with {repeated} repeated files")
    image = _pick(members, FORMATS)
    if image is None:
        raise ShardsError("no image")
    if image.size == 0:
        raise ShardsError("the image is empty")
    return Record(key, image.offset, image.size, _read_label(file, members, label_field))


def _pick(members: Sequence[Member], suffixes: Collection[str]) -> Member | None:
    """The member with one of the suffixes: `.jpg` precedes `.mask.jpg`. Raise ShardsError when two are equally near."""
    found = [member for member in members if member.extension.rpartition(".")[2] in suffixes]
    found.sort(key=lambda member: member.extension.count("."))
    if len(found) > 1 and found[0].extension.count(".") == found[1].extension.count("."):
        raise ShardsError(f"both .{found[0].extension} and .{found[1].extension}")
    return found[0] if found else None


def _read_label(file: BinaryIO, members: Sequence[Member], label_field: str | None) -> Label:
    text = _pick(members, ("cls",)) if label_field is None else None
    if text is not None:
        return _parse_label(_read(file, text))
    fields = _pick(members, ("json",))
    if fields is None:
        raise ShardsError("no label" if label_field is None else "no .json for the label")
    try:
        values = json.loads(_read(file, fields))
    except ValueError:
        raise ShardsError("no label, its .json cannot be parsed") from None
    for name in LABEL_FIELDS if label_field is None else (label_field,):
        value = values.get(name) if isinstance(values, dict) else None
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            return _parse_label(str(value).encode())
    raise ShardsError(f"no label, its .json has no {label_field or ', '.join(LABEL_FIELDS)}")


def _parse_label(content: bytes) -> Label:
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ShardsError("the label is not text") from None
    if not text:
        raise ShardsError("no label, it is empty")
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _read(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def label_number(label: Label, classes: Sequence[str]) -> int | None:
    """Class number of a label; None if there is no such class."""
    if isinstance(label, str):
        return classes.index(label) if label in classes else None
    return label if 0 <= label < len(classes) else None


def hash_file(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
