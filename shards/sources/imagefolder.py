"""`imagefolder:PATH`: a folder per class, with or without train/, valid/ (or val/) and test/ above them.

File order is the plain lexicographic order of paths: `10.jpg` comes before `2.jpg`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.images import FORMATS
from shards.manifest import ShardsError
from shards.sources.listing import UNDIVIDED, Item, Listing, PackOptions, make_key
from shards.splits import ALIASES, SPLITS, canonical_split


def check_argument(argument: str) -> None:
    if not argument:
        raise ShardsError("imagefolder needs a path: imagefolder:PATH")


def list_images(argument: str, options: PackOptions) -> Listing:
    """Raise ShardsError when there is no such folder, no class folder or no image in it."""
    root = Path(argument).expanduser()
    if not root.is_dir():
        raise ShardsError(f"imagefolder: {root} is not a folder; name one with a folder for each class")
    return list_folders(_split_folders(root))


def list_folders(folders: Mapping[str, Path], without: Sequence[str] = ()) -> Listing:
    """`folders` maps each split to a folder of class folders; the classes in `without` are ignored."""
    classes = sorted({path.name for folder in folders.values() for path in _folders(folder)} - set(without))
    label_of = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[Item]] = {}
    num_ignored = 0
    for split, folder in folders.items():
        items = splits.setdefault(split, [])
        num_ignored += sum(path.is_file() for path in folder.iterdir())
        for class_folder in (path for path in _folders(folder) if path.name in label_of):
            files = _files(class_folder)
            images = [path for path in files if is_image(path)]
            num_ignored += len(files) - len(images)
            for path in images:
                items.append(file_item(path, class_folder.name, label_of[class_folder.name], len(items)))
    if not any(splits.values()):
        shown = ", ".join(str(folder) for folder in folders.values())
        raise ShardsError(f"no images in class folders of {shown}; expected CLASS/*.{{{','.join(FORMATS)}}}")
    notes = (f"{num_ignored} files were ignored: they are not images in a class folder",) if num_ignored else ()
    return Listing(tuple(classes), splits, notes)


def file_item(path: Path, class_name: str, label: int, number: int) -> Item:
    """An image file that keeps its bytes."""
    return Item(make_key(class_name, path.stem, number), path.suffix[1:].lower(), label, path.read_bytes, path)


def is_image(path: Path) -> bool:
    """Whether the name is that of an image; hidden files such as macOS's `._x.jpg` are none."""
    return path.suffix[1:].lower() in FORMATS and not path.name.startswith(".")


def _split_folders(root: Path) -> dict[str, Path]:
    """Official splits, if every folder has the name of a split and train has class folders."""
    folders = _folders(root)
    names = [folder.name for folder in folders]
    if "train" not in names or not set(names) <= {*SPLITS, *ALIASES} or not _folders(root / "train"):
        return {UNDIVIDED: root}
    splits = {canonical_split(folder.name): folder for folder in folders if _folders(folder)}
    if len({canonical_split(name) for name in names}) < len(names):
        raise ShardsError(f"imagefolder: {root} has more than one folder for valid: {', '.join(names)}")
    return splits


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    found = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
