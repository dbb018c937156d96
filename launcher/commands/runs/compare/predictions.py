"""Stored predictions of two runs for the same images: `RUN/evaluations/<split>-<checkpoint>/predictions.npz`.

Only predictions of the best weights that the run has now count. A, B: the images of the first and the second run.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from launcher.commands.runs.compare.groups import Run
from launcher.commands.runs.compare.statistics import Paired, compare_paired
from launcher.errors import RunError
from launcher.run.folder import read_json
from launcher.run.history import find_count
from launcher.text import one_line

FIRST_SPLITS = ("test", "valid")
"""Splits that are preferred, in this order, when several can be compared."""

Ints = npt.NDArray[np.int64]


EvalImages = tuple[int, str, str, str]
"""The images of an evaluation, on which two runs are compared: priority (the lowest comes first), split, transform, and
hash of the shards or the folder's path."""


@dataclass(frozen=True)
class Match:
    """`name`: of the evaluations compared. `paired`: None when they cannot be. `note`: why not, or what is ignored."""

    name: str
    paired: Paired | None
    note: str = ""


def match_runs(first: Run, second: Run) -> Match:
    """Compare the runs on images that both have predictions for. Raise RunError for a damaged file."""
    files = {run.folder: find_evaluations(run) for run in (first, second)}
    common = sorted(files[first.folder].keys() & files[second.folder].keys())
    if not common:
        lacking = [run for run in (first, second) if not files[run.folder]] or [first, second]
        commands = " and ".join(map(how_to_evaluate, lacking))
        return Match("", None, f"no predictions of both on the same images: {commands} writes them")
    a, b = (files[run.folder][common[0]] for run in (first, second))
    name = " / ".join(dict.fromkeys((a.parent.name, b.parent.name)))
    (names_A, labels_A, predicted_A), (names_B, labels_B, predicted_B) = map(read_predictions, (a, b))
    both, in_A, in_B = np.intersect1d(names_A, names_B, assume_unique=True, return_indices=True)
    if not len(both) or not np.array_equal(labels_A[in_A], labels_B[in_B]):
        return Match(name, None, "not the same images: names or labels differ")
    paired = compare_paired(predicted_A[in_A] == labels_A[in_A], predicted_B[in_B] == labels_B[in_B])
    num_alone = max(len(names_A), len(names_B)) - len(both)
    return Match(name, paired, f"{num_alone} images that only one run has are ignored" if num_alone else "")


def how_to_evaluate(run: Run) -> str:
    return f"launcher evaluate{', then launcher sync of' if run.found.state else ''} {run.found.name}"


def find_evaluations(run: Run) -> dict[EvalImages, Path]:
    """Images -> file of predictions for them by the best weights of the run."""
    found: dict[EvalImages, Path] = {}
    link = run.folder / "checkpoints/best"  # W&B does not keep it
    best = _read_step(str(link.resolve())) if link.is_dir() else find_count(run.history.summary, "best", "step")
    for file in sorted(run.folder.glob("evaluations/*/predictions.npz")):
        metadata = read_json(file.with_name("figures.json"))
        if metadata and best in (_read_step(str(metadata.get("checkpoint"))), None):
            split, transform = str(metadata.get("split")), str(metadata.get("transform"))
            data = str(metadata.get("data_sha256") or Path(str(metadata.get("data"))).absolute())
            is_own = transform == "none" and data == run.environment["data sha256"]
            priority = FIRST_SPLITS.index(split) if is_own and split in FIRST_SPLITS else len(FIRST_SPLITS)
            found[priority, split, transform, data] = file
    return found


def _read_step(checkpoint: str) -> int | None:
    found = re.search(r"step-(\d+)/?$", checkpoint)
    return int(found[1]) if found else None


def find_mistakes(run: Run) -> Path | None:
    """The grid of mistakes beside the predictions; None without an evaluation, or without a mistake."""
    files = (file.with_name("mistakes.png") for _, file in sorted(find_evaluations(run).items()))
    return next((file for file in files if file.is_file() and not file.is_symlink()), None)


def read_predictions(file: Path) -> tuple[npt.NDArray[np.str_], Ints, Ints]:
    """Names of images, each once, their labels and the predicted classes. Raise RunError when the file is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names, labels, top = (np.asarray(arrays[name]) for name in ("name", "label", "top"))
        if (names.dtype.kind, labels.dtype.kind, top.dtype.kind) != ("U", "i", "i"):
            raise ValueError("names are not text, or classes not numbers")
        if (names.ndim, labels.ndim, top.ndim) != (1, 1, 2) or not (len(names) == len(labels) == len(top) and top.size):
            raise ValueError("its columns differ in length")
        if len(np.unique(names)) != len(names):
            raise ValueError("it has an image twice")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        advice = f"launcher evaluate {file.parents[2]} writes it anew"
        raise RunError(f"{file}: cannot be read ({one_line(error)}); {advice}") from None
    return names, labels.astype(np.int64), top[:, 0].astype(np.int64)
