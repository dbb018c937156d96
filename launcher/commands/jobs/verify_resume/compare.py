"""A run that was killed and gone on with beside one that was not: where they first differ, in words.

Every record counts, also those of steps that were done twice, before the kill and again after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from launcher.errors import SpawnedRunError
from launcher.run.journal import Record, read_journal

Steps = dict[int, Record]
"""Step -> its train record."""

Check = Callable[[Record, Record], str | None]
"""(record of the whole run, record to compare) -> what differs, in words."""

SAME = "same"
DIFFERS = "differs"
NOT_COMPARABLE = "not comparable"

WEIGHTS = ("model.safetensors", "ema.safetensors")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `verdict`: begins with SAME, DIFFERS or NOT_COMPARABLE."""

    run: str
    what: str
    verdict: str

    @property
    def differs(self) -> bool:
        return self.verdict.startswith(DIFFERS)


@dataclass(frozen=True, slots=True)
class History:
    """Train records of a run: up to the kill, and from the checkpoint at `resumed_at` steps on."""

    before: Steps
    after: Steps
    resumed_at: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two losses may be apart, as a share of the larger; 0: not at all. `reason`: why they may be."""

    share: float
    reason: str

    def __str__(self) -> str:
        return f"within {self.share:.2%}, as {self.reason}" if self.share else "to the last digit"


EXACT = Tolerance(0.0, "")


def read_whole(folder: Path) -> Steps:
    return _steps(read_journal(folder))


def read_history(folder: Path) -> History:
    """Raise AttemptError when the run was not begun and gone on with once."""
    records = read_journal(folder)
    starts = [i for i, record in enumerate(records) if record.get("name") in ("started", "resumed")]
    if [records[i]["name"] for i in starts] != ["started", "resumed"]:
        raise SpawnedRunError(f"its journal has {len(starts)} starts, not 2")
    resumed = starts[1]
    return History(_steps(records[:resumed]), _steps(records[resumed:]), int(records[resumed]["step"]))


def _steps(records: Iterable[Record]) -> Steps:
    return {record["step"]: record for record in records if record["kind"] == "train"}


def compare_resume(whole: Steps, history: History) -> str:
    """Whether it went on where a checkpoint stood, and left out no step."""
    if history.resumed_at == 0:
        return f"{DIFFERS} at step 1 (began anew, although a checkpoint was there)"
    to_do = set(range(history.resumed_at + 1, max(whole) + 1))
    left_out = (set(whole) - set(history.before) - set(history.after)) | (to_do - set(history.after))
    for step in sorted(left_out | (set(history.after) - to_do)):
        return f"{DIFFERS} at step {step} ({'left out' if step in left_out else 'was not to be done'})"
    return f"{SAME}: killed after step {max(history.before)}, went on from step {history.resumed_at}"


def compare_samples(whole: Steps, history: History) -> str:
    def check(expected: Record, found: Record) -> str | None:
        return _list_difference(expected["samples"], found["samples"])

    return _compare_chains(whole, history, check, "samples")


def compare_augmentation(whole: Steps, history: History) -> str:
    def check(expected: Record, found: Record) -> str | None:
        old, new = expected["augmentation"], found["augmentation"]
        return None if old == new else f"parameters with hash {new[:8]}, not {old[:8]}"

    return _compare_chains(whole, history, check, "augmentation")


def _compare_chains(whole: Steps, history: History, check: Check, key: str) -> str:
    found = first_difference(whole, history.before, check, " before the kill")
    found = found or first_difference(whole, history.after, check, "")
    return found or f"{SAME}: {len(whole)} steps, chain {chain(whole, key)}"


def compare_losses(whole: Steps, history: History, before: Tolerance, after: Tolerance | str) -> str:
    """`after`: of the steps from the resume on, or why they cannot be compared."""
    found = first_difference(whole, history.before, _loss_check(before), " before the kill")
    if found:
        return found
    if isinstance(after, str):
        return f"{NOT_COMPARABLE} after step {history.resumed_at} ({after})"
    found = first_difference(whole, history.after, _loss_check(after), "")
    return found or f"{SAME}: {after}"


def _loss_check(tolerance: Tolerance) -> Check:
    def check(expected: Record, found: Record) -> str | None:
        old, new = float(expected["loss"]), float(found["loss"])
        if old == new or abs(old - new) <= tolerance.share * max(abs(old), abs(new)):
            return None
        return f"loss {new!r}, not {old!r}"

    return check


def first_difference(whole: Steps, steps: Steps, check: Check, when: str) -> str | None:
    """`differs at step N (what)` for the first step that differs. `when`: added to it."""
    for step in sorted(steps):
        what = check(whole[step], steps[step]) if step in whole else "the whole run has no such step"
        if what is not None:
            return f"{DIFFERS} at step {step}{when} ({what})"
    return None


def _list_difference(expected: list[int], found: list[int]) -> str | None:
    if expected == found:
        return None
    if len(expected) != len(found):
        return f"{len(found)} samples, not {len(expected)}"
    place = next(i for i, (old, new) in enumerate(zip(expected, found, strict=True)) if old != new)
    return f"sample {place + 1} of {len(found)} is {found[place]}, not {expected[place]}"


def chain(steps: Steps, key: str) -> str:
    """A short hash of a key of all records in the order of steps, each linked to those before it."""
    link = b""
    for step in sorted(steps):
        link = hashlib.blake2b(link + json.dumps(steps[step][key]).encode(), digest_size=8).digest()
    return link.hex()


def compare_weights(whole: Path, run: Path, step: int) -> str:
    """Of the newest checkpoints of two run folders, which are to be of `step`; bit by bit."""
    different: dict[str, float] = {}
    for name in WEIGHTS:
        old, new = _read_weights(whole, name), _read_weights(run, name)
        if old.keys() != new.keys():
            return f"{DIFFERS} at step {step} ({name} is of another network)"
        for key, tensor in old.items():
            if not torch.equal(tensor, new[key]):
                different[f"{name.partition('.')[0]} {key}"] = float((tensor.double() - new[key].double()).abs().max())
    if not different:
        return f"{SAME}: to the last bit"
    worst = max(different, key=lambda key: different[key])
    return f"{DIFFERS} at step {step} ({len(different)} tensors, {worst} by up to {different[worst]:.2g})"


def _read_weights(folder: Path, name: str) -> dict[str, Any]:
    """{} where averaged weights are not kept."""
    path = folder / "checkpoints" / "last" / name
    return dict(load_file(path)) if path.exists() else {}
