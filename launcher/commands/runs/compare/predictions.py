"""Stored predictions of two runs on the same images, `RUN/evaluations/<split>-<checkpoint>/predictions.npz`: those that
were made by the best weights which the run has now.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from launcher.commands.runs.compare.groups import Run
from launcher.commands.runs.compare.statistics import Paired, compare_paired
from launcher.errors import RunError
from launcher.run.history import find_count
from launcher.text import one_line

EVALUATIONS = "evaluations"
FIGURES = "figures.json"
PREDICTIONS = "predictions.npz"
MISTAKES = "mistakes.png"
FIRST_SPLITS = ("test", "valid")
"""What is compared first, where there is more."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """`names_N`: the images, each once; `labels_N`, `predicted_N`: class numbers."""

    name: str
    names_N: npt.NDArray[np.str_]
    labels_N: Ints
    predicted_N: Ints


@dataclass(frozen=True, order=True)
class PackedImages:
    """What was judged: two runs are compared on the same. `data`: hash of its shards, or the folder's path."""

    priority: int
    """The lower, the rather it is taken."""
    split: str
    transform: str
    data: str


@dataclass(frozen=True)
class Match:
    """`what`: what was evaluated of each run. `paired`: None where that cannot be compared; `why` says it then."""

    what: str
    paired: Paired | None
    why: str = ""


def match_runs(first: Run, second: Run) -> Match:
    """The two runs on images that both have predictions of. Raise RunError for a damaged file."""
    judged = [find_judged(run) for run in (first, second)]
    common = sorted(judged[0].keys() & judged[1].keys())
    if not common:
        lacking = [run for run, files in zip((first, second), judged, strict=True) if not files]
        made = " and ".join(how_to_judge(run) for run in lacking or (first, second))
        return Match("", None, f"no predictions of both on the same images: {made} writes them")
    a, b = (read_predictions(files[common[0]]) for files in judged)
    what = a.name if a.name == b.name else f"{a.name} / {b.name}"
    both, of_a, of_b = np.intersect1d(a.names_N, b.names_N, assume_unique=True, return_indices=True)
    if not len(both) or not np.array_equal(a.labels_N[of_a], b.labels_N[of_b]):
        return Match(what, None, "not the same images: names or labels differ")
    unpaired = max(len(a.names_N), len(b.names_N)) - len(both)
    right_a, right_b = (p.predicted_N[of] == p.labels_N[of] for p, of in ((a, of_a), (b, of_b)))
    return Match(
        what, compare_paired(right_a, right_b), f"{unpaired} images of one alone are left out" if unpaired else ""
    )


def how_to_judge(run: Run) -> str:
    how = "launcher evaluate, then launcher sync of" if run.found.state else "launcher evaluate"
    return f"{how} {run.found.name}"


def find_judged(run: Run) -> dict[PackedImages, Path]:
    """Images -> predictions of them; without those that were made by other weights than the run's best."""
    best, found = _find_best_step(run), {}
    for file in sorted((run.folder / EVALUATIONS).glob(f"*/{PREDICTIONS}")):
        metadata = _read_metadata(file.with_name(FIGURES))
        if metadata and best in (_read_step(str(metadata.get("checkpoint"))), None):
            split, transform = str(metadata.get("split")), str(metadata.get("transform"))
            data = str(metadata.get("data_sha256") or Path(str(metadata.get("data"))).absolute())
            is_own = transform == "none" and data == run.data_sha256
            priority = FIRST_SPLITS.index(split) if is_own and split in FIRST_SPLITS else len(FIRST_SPLITS)
            found[PackedImages(priority, split, transform, data)] = file
    return found


def _find_best_step(run: Run) -> int | None:
    """Of a folder where its link leads, of a run of W&B what its summary says."""
    link = run.folder / "checkpoints/best"
    return _read_step(str(link.resolve())) if link.is_dir() else find_count(run.history.summary, "best", "step")


def _read_step(checkpoint: str) -> int | None:
    found = re.search(r"step-(\d+)/?$", checkpoint)
    return int(found[1]) if found else None


def _read_metadata(file: Path) -> dict[str, Any]:
    """{} where an evaluation was cut off."""
    try:
        metadata = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def find_mistakes(run: Run) -> Path | None:
    """The picture that belongs to the predictions; None where nothing was judged, or nothing was wrong."""
    judged = find_judged(run)
    pictures = (judged[images].with_name(MISTAKES) for images in sorted(judged))
    return next((picture for picture in pictures if picture.is_file() and not picture.is_symlink()), None)


def read_predictions(file: Path) -> Predictions:
    """Raise RunError when it is damaged, or not what `launcher evaluate` writes."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names, labels, top = (np.asarray(arrays[name]) for name in ("name", "label", "top"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, one_line(error)) from None
    if (names.dtype.kind, labels.dtype.kind, top.dtype.kind) != ("U", "i", "i"):
        raise _damaged(file, "names are no text, or classes no numbers")
    if (names.ndim, labels.ndim, top.ndim) != (1, 1, 2) or not len(names) == len(labels) == len(top) or not top.size:
        raise _damaged(file, "its columns differ in length")
    if len(np.unique(names)) != len(names):
        raise _damaged(file, "an image is there twice")
    return Predictions(file.parent.name, names, labels.astype(np.int64), top[:, 0].astype(np.int64))


def _damaged(file: Path, what: str) -> RunError:
    return RunError(f"{file}: cannot be read ({what}); launcher evaluate {file.parents[2]} writes it anew")
