"""Image files anywhere, and folders of shards, read as if they were one split. Needs no torch."""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from launcher.data.decode import FILE_ADVICE
from launcher.data.ids import Ids, Work
from launcher.data.reader import Sample, ShardReader
from launcher.errors import DataError, UserError, nearest, nearest_path
from shards.images import FORMATS
from shards.manifest import MANIFEST_NAME, read_manifest
from shards.sources.imagefolder import is_image

UNKNOWN = -1
"""Label of an image whose class is not known."""


@dataclass(frozen=True)
class FilePart:
    """Image files. `labels`: class numbers, or UNKNOWN."""

    paths: Sequence[Path]
    labels: Sequence[int]

    @property
    def num_images(self) -> int:
        return len(self.paths)

    def read(self, number: int) -> Sample:
        path = self.paths[number]
        if path.exists() and not path.is_file():  # reading a pipe would block
            raise DataError(f"{path}: cannot be read (not a regular file){FILE_ADVICE}")
        try:
            return Sample(path.read_bytes(), self.labels[number], str(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}){FILE_ADVICE}") from None

    def name(self, number: int) -> str:
        return str(self.paths[number])


@dataclass(frozen=True)
class ShardPart:
    """A split of a folder of shards.

    `labels`: the label for each class number of the folder. `prefix`: put before the names of images.
    """

    reader: ShardReader
    labels: Sequence[int]
    prefix: str = ""

    @property
    def num_images(self) -> int:
        return self.reader.num_images

    def read(self, number: int) -> Sample:
        sample = self.reader.read(number)
        return replace(sample, label=self.labels[sample.label])

    def name(self, number: int) -> str:
        return self.prefix + self.reader.name_of(number)


Part = FilePart | ShardPart
"""Some of the images, numbered from 0."""


class ImageReader:
    """Several parts, one after another: a `SampleReader`."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._starts = [0, *accumulate(part.num_images for part in self._parts)]
        self.num_images = self._starts[-1]

    def current(self) -> str | None:
        return None

    def read(self, sample_id: int) -> Sample:
        part, number = self._find(sample_id)
        return part.read(number)

    def name_of(self, sample_id: int) -> str:
        part, number = self._find(sample_id)
        return part.name(number)

    def holds(self, file: Path) -> bool:
        """Whether this is one of its image files, by any name."""
        try:
            status = file.stat()
        except OSError:
            return False
        paths = (path for part in self._parts if isinstance(part, FilePart) for path in part.paths)
        return any(path.exists() and os.path.samestat(status, path.stat()) for path in paths)

    def look_ahead(self, work: Work) -> Iterator[tuple[int, Ids]]:
        return iter(work)

    def _find(self, sample_id: int) -> tuple[Part, int]:
        i = bisect_right(self._starts, sample_id) - 1
        return self._parts[i], sample_id - self._starts[i]


def find_images(words: Sequence[str], classes: Sequence[str], split: str | None) -> ImageReader:
    """The images of files, folders, patterns and folders of shards, each once, in the order of `words`.

    A file's class is the name of its folder, where that is one of `classes`. `split`: of folders of shards; None: all.
    Raise UserError, a line for each word, when there is no such file or no image, and when no shards are given for
    `split`; ShardsError when shards cannot be read.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    parts: list[Part] = []
    problems = []
    known = set[str]()
    for word in words:
        try:
            parts += _find_parts(word, numbers, split, known)
        except UserError as error:
            problems.append(str(error))
    if split is not None and not problems and not any(isinstance(part, ShardPart) for part in parts):
        problems.append(f"--split {split}: needs a folder of shards and none is given; omit --split, or give one")
    if problems:
        raise UserError("\n".join(problems))
    return ImageReader(parts)


def _find_parts(word: str, numbers: Mapping[str, int], split: str | None, known: set[str]) -> list[Part]:
    """The images of one word except those in `known`, a set of absolute paths, to which they are added."""
    path = Path(word)
    if path.is_dir() and (path / MANIFEST_NAME).exists():
        return _find_shards(path, numbers, split) if _take_new([path], known) else []
    if path.exists() or path.is_symlink():
        files = _images_in(path) if path.is_dir() else [path]
    elif glob.has_magic(word):
        found = sorted(Path(each) for each in glob.glob(word, recursive=True))  # noqa: PTH207 - may begin with a slash
        files = [file for each in found for file in (_images_in(each) if each.is_dir() else [each])]
        files = [file for file in files if is_image(file)]
    else:
        raise UserError(f"{word}: no such file, folder or pattern{nearest_path(path)}")
    if not files:
        raise UserError(f"{word}: no images there; expected *.{{{','.join(FORMATS)}}} or a folder of shards")
    new = _take_new(files, known)
    return [FilePart(new, [numbers.get(file.absolute().parent.name, UNKNOWN) for file in new])]


def _take_new(paths: Sequence[Path], known: set[str]) -> list[Path]:
    """The paths that are not in `known`, to which they are added."""
    new = {absolute: path for path in paths if (absolute := os.path.abspath(path)) not in known}  # noqa: PTH100
    known.update(new)
    return [*new.values()]


def _find_shards(folder: Path, numbers: Mapping[str, int], split: str | None) -> list[Part]:
    manifest = read_manifest(folder)
    if split is not None and split not in manifest.splits:
        raise UserError(f"--split {split}: {folder} has no such split{nearest(split, manifest.splits)}")
    labels = [numbers.get(name, UNKNOWN) for name in manifest.classes]
    readers = [ShardReader(folder, manifest, each) for each in ([split] if split else manifest.splits)]
    return [ShardPart(reader, labels, f"{folder}/") for reader in readers]


def _images_in(folder: Path) -> list[Path]:
    """Image files in a folder, unreadable ones such as broken links included."""
    return sorted(path for path in folder.rglob("*") if is_image(path) and not path.is_dir())
