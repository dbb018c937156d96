"""Groups of runs that differ only in their seed, and what differs between the groups."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.commands.runs.compare.find import FoundRun
from launcher.commands.runs.compare.metrics import read_measures
from launcher.recipe.lock import flatten, is_allowed, read_lock, with_defaults
from launcher.run.history import CUT_OFF, ENDINGS, RUNNING, History, read_curve, read_history

ONLY_NAMES = ("run.name", "run.dir", "run.seed", "log")
"""Keys that name a run, and say what it logs."""
WHERE = (
    *("data.dir", "data.source", "data.root", "data.download", "data.split", "data.split_seed", "data.classes"),
    *("data.max_side", "data.images_per_shard", "data.remote_cache", "data.remote_cache_gib", "data.remote_tries"),
)
"""Keys that only lead to the data, whose content is known by its hash."""
ENVIRONMENT = {
    "data sha256": "data_sha256",
    "global batch": "plan.global_batch",
    "training images": "plan.num_train",
    "steps": "plan.total_steps",
    "world size": "plan.world_size",
    "micro batch": "plan.micro_batch",
    "device": "device",
    "python": "python",
    "launcher": "versions.launcher",
    "torch": "versions.torch",
    "torchvision": "versions.torchvision",
}
"""Name -> key in the record of a start."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """`recipe`: flat, without ONLY_NAMES and `where`. `environment`: the values of ENVIRONMENT."""

    found: FoundRun
    history: History
    name: str
    seed: Any
    recipe: Values
    environment: Values
    where: Values
    """The keys of WHERE when the data has a hash; else they are in `recipe`."""
    measures: dict[str, float]

    @property
    def folder(self) -> Path:
        return self.found.folder


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed. `label`: A, B, C ..."""

    label: str
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        return f"{self.label} {self.runs[0].name}"


def read_run(found: FoundRun) -> Run:
    """Raise RunError when lock or journal cannot be read."""
    folder = found.folder
    lock, history = with_defaults(read_lock(folder)), read_history(folder)
    if found.state and history.status == CUT_OFF:
        history = replace(history, status=_find_status(history, found.state))
    flat, start = flatten(lock), flatten(history.start)
    environment = {name: start.get(key) for name, key in ENVIRONMENT.items()}
    where = {key: flat.get(key) for key in WHERE if environment["data sha256"]}
    recipe = {key: value for key, value in flat.items() if not is_allowed(key, ONLY_NAMES) and key not in where}
    name, seed = str(flat.get("run.name") or folder.name), flat.get("run.seed")
    measures = read_measures(history, str(flat.get("train.best_metric", "accuracy")))
    return Run(found, history, name, seed, recipe, environment, where, measures)


def _find_status(history: History, state: str) -> str:
    """The status of a run in W&B, whose journal lacks the last record. `state`: W&B's word."""
    if state == "running":
        return RUNNING
    status = history.summary.get("status")
    return status if status in ENDINGS and state not in ("crashed", "killed") else CUT_OFF


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """In the order of their first runs. Seeds on other devices, data or versions are a group of their own."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.recipe, run.environment], sort_keys=True, default=str)
        together.setdefault(key, []).append(run)
    return [Group(label_of(i), tuple(members)) for i, members in enumerate(together.values())]


def label_of(i: int) -> str:
    """A to Z, then A1 to Z1 ..."""
    return string.ascii_uppercase[i % 26] + (str(i // 26) if i >= 26 else "")


def find_differing(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Key -> its value in each group, for all keys of recipe and environment that differ; None where it has none.

    The highest learning rate of the training is among them, and the keys of WHERE when the hashes differ.
    """
    firsts = [group.runs[0] for group in groups]
    has_other_data = len({run.environment["data sha256"] for run in firsts}) > 1
    values = [
        {**run.recipe, **run.environment, "highest lr": _peak(group), **(run.where if has_other_data else {})}
        for run, group in zip(firsts, groups, strict=True)
    ]
    keys = dict.fromkeys(key for each in values for key in each)
    rows = {key: [each.get(key) for each in values] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def _peak(group: Group) -> float | None:
    rates = [value for run in group.runs for value in read_curve(run.history.records, "train", "lr").values()]
    return max(rates, default=None)
