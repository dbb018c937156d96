"""The images to evaluate: the run's own data, or another folder of the same classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.commands.model.options import DEFAULT_SPLIT
from launcher.data.image_files import FilePart, ImageReader, ShardPart
from launcher.data.prepare import open_folder, prepare_data
from launcher.data.reader import SampleReader, ShardReader
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError, UserError, nearest, nearest_path
from launcher.recipe.fields import with_values
from launcher.recipe.schema import Data
from launcher.recipe.url import is_url
from shards.manifest import MANIFEST_NAME, ShardsError
from shards.sources.imagefolder import list_images
from shards.sources.listing import UNDIVIDED, PackOptions
from shards.splits import canonical_split

SHOWN_CLASSES = 5
"""Most class names of each kind in a message."""


@dataclass(frozen=True)
class EvalData:
    reader: SampleReader
    location: str
    """Folder or URL."""
    sha256: str | None
    """Hash of the manifest; None for a folder of images."""


def open_eval_data(data: str | None, split: str, spec: NetworkSpec, strategy: Strategy) -> EvalData:
    """The images of a split, with the class numbers of the run. Called by every rank.

    `data`: a folder of shards or its URL, or a folder with a folder for each class, with or without splits above;
    None: the data that the run was trained on. Raise UserError when the split does not exist, the classes differ
    or the run's data have been removed or replaced; ShardsError and DataError as `prepare_data`.
    """
    section = spec.recipe.data
    if data is None:
        try:
            return _open_shards(section, split, spec, strategy)
        except (ShardsError, DataError) as error:
            raise UserError(f"{error}; or choose other images of the same classes with --data") from None
    if is_url(data) or (Path(data) / MANIFEST_NAME).exists():
        section = with_values(section, {"dir": data, "source": None, "split": None, "classes": None})
        return _open_shards(section, split, spec, strategy)
    if not Path(data).is_dir():
        what = "not a folder" if Path(data).exists() else "no such folder"
        advice = f"give a folder of shards, or one with a folder for each class{nearest_path(Path(data))}"
        raise UserError(f"--data {data}: {what}; {advice}")
    return _open_images(data, split, spec)


def _open_shards(section: Data, split: str, spec: NetworkSpec, strategy: Strategy) -> EvalData:
    manifest = strategy.comm.rank0_first(partial(prepare_data, section, strategy.world))
    location = str(section.dir)
    strategy.comm.check_same("shards", [manifest.sha256])
    _check_split(location, split, manifest.splits)
    shards = ShardReader(open_folder(section, manifest, strategy.world), manifest, split)
    reader: SampleReader = shards
    if manifest.classes != spec.classes:
        reader = ImageReader([ShardPart(shards, _match_classes(location, manifest.classes, spec.classes))])
    return EvalData(reader, location, manifest.sha256)


def _open_images(folder: str, split: str, spec: NetworkSpec) -> EvalData:
    listing = list_images(folder, PackOptions())
    if UNDIVIDED in listing.splits:
        if split != DEFAULT_SPLIT:
            raise UserError(f"--split {split}: {folder} has no splits; leave the option out")
        items = listing.splits[UNDIVIDED]
    else:
        split = canonical_split(split)
        _check_split(folder, split, list(listing.splits))
        items = listing.splits[split]
    labels = _match_classes(folder, listing.classes, spec.classes)
    paths = [item.path for item in items if item.path is not None]
    assert len(paths) == len(items), "images of folders are files"
    return EvalData(ImageReader([FilePart(paths, [labels[item.label] for item in items])]), folder, None)


def _check_split(location: str, split: str, splits: Sequence[str]) -> None:
    if split not in splits:
        raise UserError(f"--split {split}: {location} has no such split{nearest(split, splits)}")


def _match_classes(location: str, found: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The run's number of each class found. Raise UserError when the classes are not the run's."""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        words = [f"{what} {_shorten(names)}" for what, names in (("missing", missing), ("unknown", extra)) if names]
        raise UserError(f"{location}: its classes are not the run's: {'; '.join(words)}; rename its folders")
    return [wanted.index(name) for name in found]


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return ", ".join(names[:SHOWN_CLASSES]) + more
