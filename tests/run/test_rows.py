from __future__ import annotations

import math

from launcher.run.rows import MAX_CELLS, confusion_rows, row_of

PLACE = {"step": 7, "epoch": 2, "time_s": 12.5}


def test_a_train_record_gives_its_numbers() -> None:
    record = {**PLACE, "kind": "train", "loss": 0.5, "samples": [1, 2], "nothing": None}
    axes = {"record": 3, "step": 7, "epoch": 2, "_timestamp": 12.5}
    assert row_of(3, record) == {"train/loss": 0.5, **axes}


def test_an_evaluation_is_named_by_its_split() -> None:
    row = row_of(0, {**PLACE, "kind": "eval", "split": "test", "accuracy": 0.5, "per_class": {"cat": {}}})
    assert {key for key in row if "/" in key} == {"test/accuracy"}


def test_nonfinite_strings_become_numbers_again() -> None:
    for word in ("nan", "inf", "-inf"):
        value = row_of(0, {**PLACE, "kind": "train", "loss": word})["train/loss"]
        assert isinstance(value, float)
        assert not math.isfinite(value)


def test_the_largest_cells_of_many_classes_are_kept() -> None:
    num_classes = 150
    confusion = [[0] * num_classes for _ in range(num_classes)]
    confusion[149][3], confusion[0][0] = 5, 9
    cells = confusion_rows({"per_class": {str(k): {} for k in range(num_classes)}}, confusion)
    assert len(cells) == MAX_CELLS
    assert cells[:2] == [["0", "0", 9], ["149", "3", 5]]
