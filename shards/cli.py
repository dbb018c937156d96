"""The commands of `python -m shards`: pack, index, check, info."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

import shards.check
import shards.index
import shards.write
from shards.console import ConsoleProgress, print_manifest
from shards.manifest import ShardsError, read_manifest
from shards.printable import printable
from shards.sources import PackOptions
from shards.splits import Share

app = App(
    name="shards",
    help="Pack images into WebDataset tar shards, and check them.",
    version_flags=[],
    suppress_keyboard_interrupt=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 1: `check` found problems; 2: user error, in one line; 130: interrupted."""
    try:
        words = sys.argv[1:] if arguments is None else arguments
        code = app(words, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
    except (ShardsError, CycloptsError, OSError) as error:
        print(f"shards: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("shards: interrupted", file=sys.stderr)
        return 130
    return int(code or 0)


@app.command
def pack(
    source: str,
    dest: Path,
    /,
    *,
    root: Path | None = None,
    classes: str | None = None,
    split: str | None = None,
    seed: int = 0,
    max_side: int | None = None,
    images_per_shard: int = 1000,
    download: Annotated[bool, Parameter(negative="--no-download")] = True,
) -> None:
    """Pack images into tar shards.

    Parameters
    ----------
    source: digits, imagefolder:PATH, torchvision:NAME, synthetic:CLASSESxIMAGES or synthetic:CLASSESxIMAGESxSIDE.
    dest: Folder to write; it appears only when it is complete.
    root: Folder of the torchvision dataset, read or downloaded.
    classes: Classes to use, separated by commas, or a file with one per line; their order numbers them.
    split: Images per class (train=60,valid=10,test=rest) or fractions (train=rest,valid=0.1).
    seed: Seed of the split and of the order of train images.
    max_side: Longest side in pixels; larger images are shrunk.
    images_per_shard: Images per shard; the last shard of a split may have fewer.
    download: Download a torchvision dataset that is not in root.
    """
    shares = None if split is None else parse_split(split)
    options = PackOptions(root, parse_classes(classes), shares, seed, max_side, images_per_shard, download)
    with ConsoleProgress() as progress:
        manifest = shards.write.pack(source, dest, options, progress)
    print_manifest(manifest)


@app.command
def index(folder: Path, /, *, label_field: str | None = None, classes: str | None = None) -> None:
    """Index tars made by another tool, for training on them.

    Parameters
    ----------
    folder: Folder of the tars; the names train-*, val-* and test-* are their splits.
    label_field: Field of the .json members that contains the label.
    classes: Classes in order, separated by commas, or a file with one per line.
    """
    names = parse_classes(classes)
    with ConsoleProgress() as progress:
        manifest = shards.index.index(folder, label_field=label_field, classes=names, progress=progress)
    print_manifest(manifest)


@app.command
def check(folder: Path, /) -> int:
    """Read all shards again and report problems; exit code 1 if there are any."""
    with ConsoleProgress() as progress:
        problems = shards.check.check(folder, progress)
    for line in problems:
        print(printable(line))
    return 1 if problems else 0


@app.command
def info(folder: Path, /) -> None:
    """Show splits, sizes and channel statistics."""
    print_manifest(read_manifest(folder))


def parse_split(text: str) -> dict[str, Share]:
    """`train=60,valid=10,test=rest` -> shares. Raise ShardsError when a part is not NAME=SHARE."""
    shares: dict[str, Share] = {}
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name in shares:
            raise ShardsError(f"split: {name} is given twice")
        try:
            shares[name] = "rest" if value == "rest" else int(value) if value.isdigit() else float(value)
        except ValueError:
            raise ShardsError(f"split: {part!r} must be NAME=COUNT, NAME=FRACTION or NAME=rest") from None
    return shares


def parse_classes(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas, or a file with one per line."""
    if text is None:
        return None
    if Path(text).is_file():
        return tuple(line.strip() for line in Path(text).read_text().splitlines() if line.strip())
    return tuple(text.split(","))
