"""Runs of one training with several seeds, together; and what differs by meaning between such groups."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.commands.runs.compare.find import Found
from launcher.recipe.lock import flatten, is_allowed, read_lock, with_defaults
from launcher.run.history import CUT_OFF, ENDINGS, RUNNING, History, find_number, read_curve, read_history

ONLY_NAMES = ("run.name", "run.dir", "run.seed", "log")
"""Keys that say which run it is and what is written of it."""
WHERE = (
    *("data.dir", "data.source", "data.root", "data.download", "data.split", "data.split_seed", "data.classes"),
    *("data.max_side", "data.images_per_shard", "data.remote_cache", "data.remote_cache_gib", "data.remote_tries"),
)
"""Keys that only lead to the data, whose hash says what it is."""
VERSIONS = ("launcher", "torch", "torchvision")

Facts = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """`recipe`: flat, by meaning. `environment`: facts that the journal's newest start records."""

    found: Found
    history: History
    name: str
    seed: Any
    recipe: Facts
    environment: Facts
    where: Facts
    """Where the data come from, apart from `recipe` where their hash says what they are."""

    @property
    def folder(self) -> Path:
        return self.found.folder

    @property
    def data_sha256(self) -> Any:
        return self.environment.get("data sha256")


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed. `label`: A, B, C ..."""

    label: str
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        return f"{self.label} {self.runs[0].name}"


def read_run(found: Found) -> Run:
    """Raise RunError when lock or journal cannot be read."""
    folder = found.folder
    lock, history = with_defaults(read_lock(folder)), read_history(folder)
    if found.state and history.status == CUT_OFF:
        history = replace(history, status=_find_status(history, found.state))
    start, flat = history.start, flatten(lock)
    environment = read_environment(start)
    where = {key: flat.get(key) for key in WHERE if environment["data sha256"]}
    recipe = {key: value for key, value in flat.items() if not is_allowed(key, ONLY_NAMES) and key not in where}
    name, seed = str(flat.get("run.name") or folder.name), flat.get("run.seed")
    return Run(found, history, name, seed, recipe, environment, where)


def _find_status(history: History, state: str) -> str:
    """Of a run of W&B, to which the journal goes before its last record is written."""
    if state == "running":
        return RUNNING
    status = history.summary.get("status")
    return status if status in ENDINGS and state not in ("crashed", "killed") else CUT_OFF


def read_environment(start: Facts) -> Facts:
    """Of what is not recorded: None."""
    versions = start.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    return {
        "data sha256": start.get("data_sha256"),
        "global batch": find_number(start, "plan", "global_batch"),
        "training images": find_number(start, "plan", "num_train"),
        "steps": find_number(start, "plan", "total_steps"),
        "processes": find_number(start, "plan", "world_size"),
        "micro batch": find_number(start, "plan", "micro_batch"),
        "device": start.get("device"),
        "python": start.get("python"),
        **{name: versions.get(name) for name in VERSIONS},
    }


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """In the order of their first runs. Seeds on another machine, data or version are a group of their own."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.recipe, run.environment], sort_keys=True, default=str)
        together.setdefault(key, []).append(run)
    return [Group(label_of(i), tuple(found)) for i, found in enumerate(together.values())]


def label_of(i: int) -> str:
    """A to Z, then A1 to Z1 ..."""
    return string.ascii_uppercase[i % 26] + (str(i // 26) if i >= 26 else "")


def find_differing(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Key -> its value in each group, for all keys of recipe and environment that differ; None where it has none.

    The learning rate at its peak, as it was trained with, comes with them where it differs.
    """
    firsts = [group.runs[0] for group in groups]
    metadata = [
        {**run.recipe, **run.environment, "highest lr": _peak(group)} for run, group in zip(firsts, groups, strict=True)
    ]
    if len({run.data_sha256 for run in firsts}) > 1:
        metadata = [{**each, **run.where} for each, run in zip(metadata, firsts, strict=True)]
    keys = dict.fromkeys(key for each in metadata for key in each)
    rows = {key: [each.get(key) for each in metadata] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _peak(group: Group) -> float | None:
    rates = [value for run in group.runs for value in read_curve(run.history.records, "train", "lr").values()]
    return max(rates, default=None)
