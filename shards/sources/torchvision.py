"""`torchvision:NAME`: any labelled dataset class of torchvision.datasets, found by its constructor's signature.

Files of the dataset keep their bytes; arrays, and files in formats that are not packed, become PNG.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shards.images import encode_png
from shards.manifest import ShardsError
from shards.sources.imagefolder import file_item, is_image, list_folders
from shards.sources.listing import UNDIVIDED, Item, Listing, PackOptions, make_key

CLASS_FOLDERS = {
    "Caltech101": ("caltech101/101_ObjectCategories", ("BACKGROUND_Google",)),
    "Caltech256": ("caltech256/256_ObjectCategories", ()),
}
"""Datasets that rebuild file names from counters, wrong if a folder has gaps: name -> class folders, ignored ones."""

VARIANTS = {"EMNIST": {"split": "balanced"}}
"""Datasets whose `split` argument is not a split."""

SPLIT_VALUES = {"train": ("train", "trainval", "train-standard"), "valid": ("valid", "val"), "test": ("test",)}
"""Our split -> values of torchvision's `split` argument; the first one that the dataset has counts."""


class Dataset(Protocol):
    """A labelled dataset of torchvision: (image, class number) pairs."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


def check_argument(argument: str) -> None:
    """Search the name in torchvision's source text, because importing torchvision takes seconds."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ShardsError("torchvision is not installed; pip install torchvision")
    tree = ast.parse(Path(spec.submodule_search_locations[0], "datasets", "__init__.py").read_text())
    names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    if argument not in names:
        lowered = {name.lower(): name for name in names}
        nearest = difflib.get_close_matches(argument.lower(), lowered, n=1, cutoff=0.4)
        hint = f"; did you mean torchvision:{lowered[nearest[0]]}?" if nearest else ""
        raise ShardsError(f"unknown source 'torchvision:{argument}'{hint}")


def list_images(argument: str, options: PackOptions) -> Listing:
    """Official splits, if any. Raise ShardsError when the dataset is missing and cannot be downloaded."""
    import torchvision.datasets

    kind = getattr(torchvision.datasets, argument)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = (options.root or cache / "shards" / argument).expanduser()
    parameters = _parameters(kind)
    datasets = {
        split: _open(argument, kind, {**arguments, "root": root}, parameters, options.download)
        for split, arguments in _split_arguments(argument, kind, parameters, root).items()
    }
    if argument in CLASS_FOLDERS:
        folder, without = CLASS_FOLDERS[argument]
        return list_folders({UNDIVIDED: root / folder}, without)
    labels = {split: _labels(argument, dataset) for split, dataset in datasets.items()}
    num_classes = 1 + max((max(each, default=-1) for each in labels.values()), default=-1)
    classes = _class_names(next(iter(datasets.values())), num_classes)
    return Listing(classes, {split: _items(datasets[split], labels[split], classes) for split in datasets})


def _parameters(kind: type) -> set[str]:
    """Names of the constructor's parameters, with those that **kwargs passes to its bases."""
    names: set[str] = set()
    for ancestor in kind.__mro__:
        parameters = inspect.signature(ancestor.__init__).parameters  # type: ignore[misc]
        names |= set(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _split_arguments(argument: str, kind: type, parameters: set[str], root: Path) -> dict[str, dict[str, Any]]:
    """The constructor's arguments for each split of the dataset."""
    fixed = VARIANTS.get(argument, {})
    if "train" in parameters:
        return {"train": {**fixed, "train": True}, "test": {**fixed, "train": False}}
    if "split" not in parameters:
        return {UNDIVIDED: {}}
    try:
        kind(root=root, split="?")
    except ValueError as error:  # torchvision checks the value before it reads the disk, and lists the valid ones
        valid = set(re.findall(r"'([^']+)'", str(error)))
    except (RuntimeError, TypeError, OSError) as error:
        raise ShardsError(f"torchvision:{argument}: cannot be opened ({_one_line(error)})") from None
    chosen = {split: next((value for value in names if value in valid), None) for split, names in SPLIT_VALUES.items()}
    return {split: {"split": value} for split, value in chosen.items() if value is not None}


def _open(
    argument: str, kind: Callable[..., Dataset], arguments: dict[str, Any], parameters: set[str], may_download: bool
) -> Dataset:
    """Open the dataset; download it first if it is missing."""
    accepted = {name: value for name, value in arguments.items() if name in parameters}
    offline = {"download": False} if "download" in parameters else {}
    try:
        return kind(**accepted, **offline)
    except TypeError as error:
        raise ShardsError(f"torchvision:{argument}: needs more arguments than root ({_one_line(error)})") from None
    except Exception as error:  # every dataset raises another error for a missing file
        reason = _one_line(error)
    root = arguments["root"]
    if may_download and offline:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):
                return kind(**accepted, download=True)
        except Exception as error:  # network, disk and archive errors alike
            reason = f"the download failed: {_one_line(error)}"
    raise ShardsError(
        f"torchvision:{argument}: not in {root} ({reason}); "
        "download it where there is a network, and pass root=FOLDER (--root)"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _labels(argument: str, dataset: Dataset) -> list[int]:
    """Class numbers from the dataset's list, or else by reading every image once."""
    for name in ("targets", "labels", "_labels", "y"):
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            array = np.asarray(found)
            if array.ndim == 1 and array.dtype.kind in "iu":
                return [int(label) for label in array]
    try:
        return [int(label) for _, label in _pairs(dataset) or (dataset[i] for i in range(len(dataset)))]
    except (TypeError, ValueError, RuntimeError, IndexError):
        raise ShardsError(f"torchvision:{argument}: not a dataset with one class number per image") from None


def _pairs(dataset: Dataset) -> list[tuple[str, int]]:
    """Path and class number of each image; empty if the dataset does not store such pairs."""
    for name in ("samples", "_samples", "imgs"):
        found = getattr(dataset, name, None)
        if found and len(found) == len(dataset) and isinstance(found[0][0], (str, Path)):
            return list(found)
    return []


def _paths(dataset: Dataset) -> list[Path]:
    """Path of each image; empty if the dataset stores none."""
    for name in ("_image_files", "_images", "data"):
        found = getattr(dataset, name, None)
        if isinstance(found, list) and found and len(found) == len(dataset) and isinstance(found[0], (str, Path)):
            return [Path(path) for path in found]
    return [Path(path) for path, _ in _pairs(dataset)]


def _class_names(dataset: Dataset, num_classes: int) -> tuple[str, ...]:
    """The dataset's class names, else its numbers. Repeated names get their number: ImageNet has two cranes."""
    names = getattr(dataset, "classes", None) or ()
    if len(names) < num_classes:
        by_number = {number: name for name, number in getattr(dataset, "class_to_idx", {}).items()}
        names = [by_number.get(number, str(number)) for number in range(num_classes)]
    flat = [name if isinstance(name, str) else ", ".join(name) for name in names]
    return tuple(name if flat.count(name) == 1 else f"{name} #{k}" for k, name in enumerate(flat))


def _items(dataset: Dataset, labels: Sequence[int], classes: Sequence[str]) -> list[Item]:
    paths = _paths(dataset)
    if paths and all(is_image(path) for path in paths):
        return [file_item(path, classes[k], k, i) for i, (path, k) in enumerate(zip(paths, labels, strict=True))]
    return [Item(make_key(classes[k], "", i), "png", k, partial(_read_png, dataset, i)) for i, k in enumerate(labels)]


def _read_png(dataset: Dataset, number: int) -> bytes:
    return encode_png(dataset[number][0])
