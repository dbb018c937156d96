"""Compares a run that was killed and resumed with an uninterrupted one: the first step that differs, in words.

Every record counts, also those of steps that ran twice, before the kill and again after the resume.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from launcher.errors import SpawnedRunError
from launcher.run.history import STARTS
from launcher.run.journal import Record, read_journal

Steps = dict[int, Record]
"""Step -> its train record."""

Check = Callable[[Any, Any], str | None]
"""(expected value, found value) -> what differs, in words."""

SAME = "same"
DIFFERS = "differs"
NOT_COMPARABLE = "not comparable"

WEIGHTS = ("model.safetensors", "ema.safetensors")


@dataclass(frozen=True, slots=True)
class Comparison:
    run: str
    what: str
    verdict: str
    """Begins with SAME, DIFFERS or NOT_COMPARABLE."""

    @property
    def differs(self) -> bool:
        return self.verdict.startswith(DIFFERS)


@dataclass(frozen=True, slots=True)
class KilledRun:
    """Train records up to the kill, and since the resume. `resumed_at`: step of the checkpoint that it resumed from."""

    before: Steps
    after: Steps
    resumed_at: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest difference of two losses, relative to the larger one; 0: none. `reason`: for a difference."""

    relative: float
    reason: str

    def __str__(self) -> str:
        return f"within {self.relative:.2%}, as {self.reason}" if self.relative else "to the last digit"

    def check(self, expected: Any, found: Any) -> str | None:
        old, new = float(expected), float(found)
        return None if math.isclose(old, new, rel_tol=self.relative) else f"loss {new!r}, not {old!r}"


EXACT = Tolerance(0.0, "")


def read_steps(folder: Path) -> Steps:
    return _steps(read_journal(folder))


def read_killed_run(folder: Path) -> KilledRun:
    """Raise SpawnedRunError when the run was not started once and resumed once."""
    records = read_journal(folder)
    starts = [i for i, record in enumerate(records) if record.get("name") in STARTS]
    if tuple(records[i]["name"] for i in starts) != STARTS:
        raise SpawnedRunError(f"its journal has {len(starts)} starts, not 2")
    resumed = starts[1]
    return KilledRun(_steps(records[:resumed]), _steps(records[resumed:]), int(records[resumed]["step"]))


def _steps(records: Iterable[Record]) -> Steps:
    return {record["step"]: record for record in records if record["kind"] == "train"}


def compare_runs(expected: Steps, found: KilledRun, before: Tolerance, after: Tolerance | str) -> dict[str, str]:
    """The verdict of each comparison, by its name. `before`, `after`: see `compare_losses`."""
    return {
        "resume": compare_resume(expected, found),
        "sample ids": _compare_chains(expected, found, "samples", _check_samples),
        "augmentation": _compare_chains(expected, found, "augmentation", _check_augmentation),
        "losses": compare_losses(expected, found, before, after),
    }


def compare_resume(expected: Steps, run: KilledRun) -> str:
    """Whether the run resumed from a checkpoint, and has every step."""
    if run.resumed_at == 0:
        return f"{DIFFERS} at step 1 (started at step 0, although a checkpoint existed)"
    remaining = set(range(run.resumed_at + 1, max(expected) + 1))
    missing = (set(expected) - set(run.before) - set(run.after)) | (remaining - set(run.after))
    if wrong := missing | (set(run.after) - remaining):
        step = min(wrong)
        return f"{DIFFERS} at step {step} ({'missing' if step in missing else 'unexpected'})"
    return f"{SAME}: killed after step {max(run.before)}, resumed at step {run.resumed_at}"


def _compare_chains(expected: Steps, run: KilledRun, key: str, check: Check) -> str:
    difference = _find_difference(expected, run.before, key, check, " before the kill")
    difference = difference or _find_difference(expected, run.after, key, check)
    return difference or f"{SAME}: {len(expected)} steps, hash {hash_chain(expected, key)}"


def compare_losses(expected: Steps, run: KilledRun, before: Tolerance, after: Tolerance | str) -> str:
    """`before`: up to the kill. `after`: since the resume, or why these losses cannot be compared."""
    difference = _find_difference(expected, run.before, "loss", before.check, " before the kill")
    if difference:
        return difference
    if isinstance(after, str):
        return f"{NOT_COMPARABLE} after step {run.resumed_at} ({after})"
    return _find_difference(expected, run.after, "loss", after.check) or f"{SAME}: {after}"


def _find_difference(expected: Steps, steps: Steps, key: str, check: Check, when: str = "") -> str | None:
    """`differs at step N{when} (what)` for the first step whose records differ in `key`."""
    for step, record in sorted(steps.items()):
        what = check(expected[step][key], record[key]) if step in expected else "the uninterrupted run has no such step"
        if what is not None:
            return f"{DIFFERS} at step {step}{when} ({what})"
    return None


def _check_augmentation(expected: str, found: str) -> str | None:
    return None if expected == found else f"parameters with hash {found[:8]}, not {expected[:8]}"


def _check_samples(expected: list[int], found: list[int]) -> str | None:
    if expected == found:
        return None
    if len(expected) != len(found):
        return f"{len(found)} samples, not {len(expected)}"
    i = next(i for i, (old, new) in enumerate(zip(expected, found, strict=True)) if old != new)
    return f"sample {i + 1} of {len(found)} is {found[i]}, not {expected[i]}"


def hash_chain(steps: Steps, key: str) -> str:
    """Short hash of one key of all records, in the order of their steps."""
    link = b""
    for step in sorted(steps):
        link = hashlib.blake2b(link + json.dumps(steps[step][key]).encode(), digest_size=8).digest()
    return link.hex()


def compare_weights(expected: Path, found: Path, step: int) -> str:
    """Compare the newest checkpoints of two run folders, both of `step`, bit by bit."""
    different: dict[str, float] = {}
    for name in WEIGHTS:
        old, new = _read_weights(expected, name), _read_weights(found, name)
        if old.keys() != new.keys():
            return f"{DIFFERS} at step {step} ({name} has other tensors)"
        for key, tensor in old.items():
            if not torch.equal(tensor, new[key]):
                different[f"{name.partition('.')[0]} {key}"] = float((tensor.double() - new[key].double()).abs().max())
    if not different:
        return f"{SAME}: to the last bit"
    worst = max(different, key=lambda key: different[key])
    return f"{DIFFERS} at step {step} ({len(different)} tensors, {worst} by up to {different[worst]:.2g})"


def _read_weights(folder: Path, name: str) -> dict[str, Any]:
    """{} without averaged weights."""
    path = folder / "checkpoints" / "last" / name
    return dict(load_file(path)) if path.exists() else {}
