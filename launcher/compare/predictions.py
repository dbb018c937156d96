"""Stored predictions of two runs on the same images: `RUN/evaluations/<split>-<checkpoint>/predictions.npz`."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from launcher.compare.groups import Run
from launcher.compare.statistics import Paired, compare_paired
from launcher.errors import RunError

EVALUATIONS = "evaluations"
PREDICTIONS = "predictions.npz"
MISTAKES = "mistakes.png"
SPLITS = ("test", "valid")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """`names_N`: the images, each once; `labels_N`, `predicted_N`: class numbers."""

    name: str
    names_N: npt.NDArray[np.str_]
    labels_N: Ints
    predicted_N: Ints


@dataclass(frozen=True)
class Match:
    """`what`: what was evaluated of each run. `paired`: None where that cannot be compared; `why` says it then."""

    what: str
    paired: Paired | None
    why: str = ""


def match_runs(first: Run, second: Run) -> Match:
    """The two runs on the images of a split that both have predictions of. Raise RunError for a damaged file."""
    for split in SPLITS:
        files = [find_predictions(run.folder, split) for run in (first, second)]
        if all(files):
            break
    else:
        lacking = [run for run in (first, second) if not any(find_predictions(run.folder, s) for s in SPLITS)]
        made = " and ".join(how_to_judge(run) for run in lacking or (first, second))
        return Match("", None, f"no predictions of both on one split: {made} writes them")
    if first.data_sha256 != second.data_sha256:
        return Match(split, None, "their data differ: images of one name may not be the same")
    a, b = (read_predictions(file) for file in files if file is not None)
    what = a.name if a.name == b.name else f"{a.name} / {b.name}"
    common, of_a, of_b = np.intersect1d(a.names_N, b.names_N, assume_unique=True, return_indices=True)
    if not len(common) or not np.array_equal(a.labels_N[of_a], b.labels_N[of_b]):
        return Match(what, None, "not the same images: names or labels differ")
    left_out = max(len(a.names_N), len(b.names_N)) - len(common)
    right_a, right_b = (p.predicted_N[of] == p.labels_N[of] for p, of in ((a, of_a), (b, of_b)))
    return Match(what, compare_paired(right_a, right_b), f"{left_out} images of one alone left out" if left_out else "")


def how_to_judge(run: Run) -> str:
    how = "launcher evaluate, then launcher sync of" if run.found.state else "launcher evaluate"
    return f"{how} {run.found.name}"


def find_predictions(folder: Path, split: str) -> Path | None:
    """Of the best checkpoint, or else the newest."""
    best = folder / EVALUATIONS / f"{split}-best" / PREDICTIONS
    if best.is_file():
        return best
    files = [file for file in (folder / EVALUATIONS).glob(f"{split}-*/{PREDICTIONS}") if file.is_file()]
    return max(files, key=lambda file: (file.stat().st_mtime_ns, file), default=None)


def find_mistakes(folder: Path) -> Path | None:
    """The picture that belongs to the predictions; None where nothing was judged, or nothing was wrong."""
    files = (find_predictions(folder, split) for split in SPLITS)
    pictures = (file.with_name(MISTAKES) for file in files if file is not None)
    return next((picture for picture in pictures if picture.is_file() and not picture.is_symlink()), None)


def read_predictions(file: Path) -> Predictions:
    """Raise RunError when it is damaged, or not what `launcher evaluate` writes."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names, labels, top = (np.asarray(arrays[name]) for name in ("name", "label", "top"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, " ".join(str(error).split())) from None
    if (names.dtype.kind, labels.dtype.kind, top.dtype.kind) != ("U", "i", "i"):
        raise _damaged(file, "names are no text, or classes no numbers")
    if (names.ndim, labels.ndim, top.ndim) != (1, 1, 2) or not len(names) == len(labels) == len(top) or not top.size:
        raise _damaged(file, "its columns differ in length")
    if len(np.unique(names)) != len(names):
        raise _damaged(file, "an image is there twice")
    return Predictions(file.parent.name, names, labels.astype(np.int64), top[:, 0].astype(np.int64))


def _damaged(file: Path, what: str) -> RunError:
    return RunError(f"{file}: cannot be read ({what}); launcher evaluate {file.parents[2]} writes it anew")
