"""Groups of seeds, and what differs between groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from launcher.commands.runs.compare.groups import find_differing, group_runs, label_of
from tests.commands.runs.run_folders import copy, read, records, rewrite


def change_lock(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    lock = yaml.safe_load((run / "recipe.lock.yaml").read_text())
    change(lock)
    (run / "recipe.lock.yaml").write_text(yaml.safe_dump(lock))
    return run


def change_start(run: Path, **metadata: Any) -> Path:
    first, *others = records(run)
    plan = {**first["plan"], **metadata.pop("plan", {})}
    rewrite(run, [{**first, **metadata, "plan": plan}, *others])
    return run


def differing(*runs: Path) -> dict[str, list[Any]]:
    return find_differing(group_runs([read(run) for run in runs]))


def test_seeds_of_a_recipe_are_one_group(runs: Path) -> None:
    names = ("slow-0", "fast-1", "slow-1", "fast-0")
    groups = group_runs([read(runs / name) for name in names])
    assert [(group.label, [run.folder.name for run in group.runs]) for group in groups] == [
        ("A", ["slow-0", "slow-1"]),
        ("B", ["fast-1", "fast-0"]),
    ]
    assert find_differing(groups) == {"optim.lr": [0.002, 0.02], "highest lr": [0.002, 0.02]}


def test_names_and_other_spellings_of_a_value_do_not_differ(runs: Path) -> None:
    other = copy(runs / "slow-0", "other")

    def change(lock: dict[str, Any]) -> None:
        lock["run"].update(name="renamed", seed=7)
        lock["log"]["every"] = 5
        lock["data"]["dir"] = "elsewhere"
        lock["train"]["epochs"] = "2ep"
        del lock["optim"]["weight_decay"], lock["strategy"]["channels_last"]

    change_lock(other, change)
    assert len(group_runs([read(runs / "slow-0"), read(other)])) == 1


def test_a_key_that_a_lock_lacks_has_its_default(runs: Path) -> None:
    other = change_lock(copy(runs / "slow-0", "other"), lambda lock: lock["train"].pop("global_batch"))
    assert differing(runs / "slow-0", other)["train.global_batch"][0] == 12


def test_the_environment_differs_too(runs: Path) -> None:
    other = change_start(
        copy(runs / "slow-0", "other"),
        data_sha256="f00",
        device="cuda",
        python="3.12.1",
        versions={"launcher": "0.2.0", "torch": "3.0.0", "torchvision": "0.29.1"},
        plan={"world_size": 8, "global_batch": 96},
    )
    change_lock(other, lambda lock: lock["data"].update(dir="elsewhere"))
    ours = records(runs / "slow-0")[0]
    found = differing(runs / "slow-0", other)
    versions = ours["versions"]
    assert found["data sha256"] == [ours["data_sha256"], "f00"]
    assert found["data.dir"] == ["shards", "elsewhere"]
    assert found["device"] == ["cpu", "cuda"]
    assert found["world size"] == [1, 8]
    assert found["global batch"] == [12, 96]
    assert found["torch"] == [versions["torch"], "3.0.0"]
    assert found["launcher"] == [versions["launcher"], "0.2.0"]
    assert found["python"] == [ours["python"], "3.12.1"]
    assert "optim.lr" not in found


def test_labels_do_not_run_out() -> None:
    assert [label_of(i) for i in (0, 25, 26, 52)] == ["A", "Z", "A1", "A2"]
    assert len({label_of(i) for i in range(1000)}) == 1000
