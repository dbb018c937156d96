"""Stored predictions of two runs, matched by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from launcher.commands.runs.compare.predictions import find_evaluations, find_mistakes, match_runs, read_predictions
from launcher.errors import RunError
from tests.commands.runs.run_folders import predict, read

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_the_same_images_are_compared(runs: Path) -> None:
    a, b = [0, 1, 2, 0, 1, 0, 0, 0, 0], [0, 1, 2, 1, 1, 2, 0, 1, 2]
    predict(runs / "slow-0", a, LABELS)
    file = predict(runs / "fast-0", b, LABELS)
    with np.load(file) as arrays:
        shuffled = {name: column[::-1] for name, column in arrays.items() if name != "classes"}
    np.savez(file, **shuffled)
    match = match_runs(read(runs / "slow-0"), read(runs / "fast-0"))
    assert match.paired is not None
    right = np.array([a, b]) == LABELS
    assert (match.paired.num_images, match.paired.only_first, match.paired.only_second) == (9, 1, 3)
    assert match.paired.difference == pytest.approx(right[1].mean() - right[0].mean())
    assert match.paired.p == pytest.approx(stats.binomtest(1, 4).pvalue)
    assert (match.name, match.note) == ("test-best", "")


def test_missing_predictions_are_reported_with_the_command_that_writes_them(runs: Path) -> None:
    predict(runs / "slow-0", LABELS, LABELS)
    match = match_runs(read(runs / "slow-0"), read(runs / "fast-0"))
    assert match.paired is None
    assert match.note == "no predictions of both on the same images: launcher evaluate runs/fast-0 writes them"
    predict(runs / "fast-0", LABELS, LABELS, "valid-best")
    match = match_runs(read(runs / "slow-0"), read(runs / "fast-0"))
    assert "launcher evaluate runs/slow-0 and launcher evaluate runs/fast-0" in match.note


def test_images_of_one_run_only_are_ignored_and_other_images_refused(runs: Path) -> None:
    predict(runs / "slow-0", LABELS, LABELS)
    predict(runs / "fast-0", LABELS[:7], LABELS[:7])
    predict(runs / "fast-1", LABELS, LABELS[::-1])
    match = match_runs(read(runs / "slow-0"), read(runs / "fast-0"))
    assert match.paired is not None
    assert (match.paired.num_images, match.note) == (7, "2 images that only one run has are ignored")
    match = match_runs(read(runs / "slow-0"), read(runs / "fast-1"))
    assert (match.paired, match.note) == (None, "not the same images: names or labels differ")


def test_only_predictions_of_the_best_weights_count(runs: Path) -> None:
    predict(runs / "slow-0", LABELS, LABELS)
    predict(runs / "fast-0", LABELS, LABELS, checkpoint="elsewhere/step-00000001")
    match = match_runs(read(runs / "slow-0"), read(runs / "fast-0"))
    assert (match.paired, match.note.count("launcher evaluate runs/fast-0")) == (None, 1)
    assert find_mistakes(read(runs / "fast-0")) is None
    (runs / "slow-0/evaluations/test-best/figures.json").unlink()  # cut off
    assert find_evaluations(read(runs / "slow-0")) == {}


def test_transformed_images_and_other_folders_are_not_compared(runs: Path) -> None:
    predict(runs / "slow-0", LABELS, LABELS, "test-best-rotate180", transform="rotate180")
    predict(runs / "fast-0", LABELS, LABELS, "test-best-mine-3f9a1c", data="a/mine", data_sha256=None)
    predict(runs / "fast-1", LABELS, LABELS, "test-best-mine-0008a8", data="b/mine", data_sha256=None)
    for one, other in (("slow-0", "fast-0"), ("fast-0", "fast-1")):
        assert match_runs(read(runs / one), read(runs / other)).paired is None
    predict(runs / "fast-0", LABELS, LABELS, "turned", split="test", transform="rotate180")
    match = match_runs(read(runs / "slow-0"), read(runs / "fast-0"))
    assert (match.name, match.paired is not None) == ("test-best-rotate180 / turned", True)
    for name in ("slow-0", "fast-0"):
        predict(runs / name, LABELS, LABELS, "valid-best")
    assert match_runs(read(runs / "slow-0"), read(runs / "fast-0")).name == "valid-best"


def test_damaged_files_are_one_line(runs: Path) -> None:
    file = predict(runs / "slow-0", LABELS, LABELS)
    good = dict(np.load(file))
    pickled = np.array([object()] * 9)
    changes = [
        {"name": good["name"][[0] * 9]},
        {"name": good["name"][:3]},
        {"top": np.ones((9, 2))},
        {"label": pickled},
    ]
    for change in changes:
        np.savez(file, **{**good, **change})
        with pytest.raises(RunError, match=r"predictions.npz: cannot be read .*launcher evaluate runs/slow-0 writes"):
            read_predictions(file)
    for content in (b"", b"not a zip", file.read_bytes()[:200]):
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"predictions.npz: cannot be read"):
            read_predictions(file)
    with file.open("wb") as stream:
        np.save(stream, good["label"])
    with pytest.raises(RunError, match=r"predictions.npz: cannot be read"):
        read_predictions(file)
    np.savez(file, name=good["name"])
    with pytest.raises(RunError, match=r"predictions.npz: cannot be read"):
        read_predictions(file)
