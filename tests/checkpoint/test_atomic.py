from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from launcher.checkpoint import atomic, snapshot
from launcher.checkpoint.restore import read_progress
from launcher.checkpoint.state import Progress, TrainState, step_name
from launcher.checkpoint.tensor_file import TensorFile
from launcher.distributed.strategy import Strategy
from tests.harness.small_run import (
    FILES,
    SmallRun,
    alone,
    assert_equal,
    best_at,
    flip_a_bit,
    pointed,
    restore,
    save,
    save_two,
    saved_steps,
)


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return alone()


@pytest.fixture
def two(tmp_path: Path, strategy: Strategy) -> Path:
    return save_two(tmp_path, strategy)


def test_the_newest_and_the_best_are_kept_and_linked(tmp_path: Path, strategy: Strategy) -> None:
    run, best = SmallRun(strategy), None
    for step in range(10, 80, 10):
        best = best_at(step) if step in (10, 20, 60) else best
        save(tmp_path, run.state, Progress(step, best), keep=2)
        expected = {10: [10], 20: [10, 20], 30: [20, 30], 40: [20, 30, 40], 60: [50, 60], 70: [60, 70]}
        assert saved_steps(tmp_path) == expected.get(step, [20, 40, 50])
        assert pointed(tmp_path, "last") == step_name(step)
        assert pointed(tmp_path, "best") == step_name(best.step if best else 0)
    assert {path.name for path in tmp_path.iterdir()} == {step_name(60), step_name(70), "last", "best"}


STAGES: dict[str, tuple[Any, str]] = {
    "weights": (TensorFile, "write"),
    "hashes": (atomic, "write_atomically"),
    "hashing": (atomic, "_sha256"),
    "rename": (Path, "rename"),
    "folder": (atomic, "fsync"),
    "links": (snapshot, "point"),
    "pruning": (snapshot, "prune"),
    "deletion": (shutil, "rmtree"),
}


class PowerCutError(Exception):
    """Interrupts a save."""


@pytest.mark.parametrize("calls_before", [0, 1])
@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_save_leaves_a_complete_checkpoint_and_the_next_works(
    tmp_path: Path, strategy: Strategy, monkeypatch: pytest.MonkeyPatch, stage: str, calls_before: int
) -> None:
    run = SmallRun(strategy)
    run.train(1)
    save(tmp_path, run.state, Progress(10, best_at(10)), keep=1)
    save(tmp_path, run.state, Progress(20, best_at(20)), keep=1)
    old = run.everything()
    run.train(1)
    with monkeypatch.context() as patch:
        cut(patch, *STAGES[stage], calls_before)
        with pytest.raises(PowerCutError):
            save_twice(tmp_path, run.state, Progress(30, best_at(30)))
    other = SmallRun(strategy)
    progress = restore(tmp_path, other.state, lambda _: None)
    assert progress.step in (20, 30)
    assert_equal(other.everything(), old if progress.step == 20 else run.everything())
    assert pointed(tmp_path, "last") == pointed(tmp_path, "best") == step_name(progress.step)
    save(tmp_path, run.state, Progress(30, best_at(30)), keep=1)
    assert_complete(tmp_path, 30)
    save(tmp_path, run.state, Progress(40, best_at(40)), keep=1)
    assert_complete(tmp_path, 40)


def save_twice(folder: Path, state: TrainState, progress: Progress) -> None:
    """The second over the first, as after a damaged one: for the stages that a first save does not reach."""
    for _ in range(2):
        save(folder, state, progress, keep=1)


def cut(patch: pytest.MonkeyPatch, owner: Any, name: str, calls_before: int) -> None:
    """Raise after some calls."""
    real, left = getattr(owner, name), calls_before

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerCutError(name)
        return real(*arguments, **options)

    patch.setattr(owner, name, fail)


def assert_complete(folder: Path, step: int) -> None:
    """There is nothing but this checkpoint and its links."""
    atomic.check_folder(folder / step_name(step))
    assert {path.name for path in folder.iterdir()} == {step_name(step), "last", "best"}
    assert pointed(folder, "last") == pointed(folder, "best") == step_name(step)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "bit": flip_a_bit,
    "truncated": lambda file: os.truncate(file, file.stat().st_size - 1),
    "empty": lambda file: os.truncate(file, 0),
    "longer": lambda file: os.truncate(file, file.stat().st_size + 1),
    "missing": Path.unlink,
    "folder": lambda file: (file.unlink(), file.mkdir())[0],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_skipped_and_reported(two: Path, strategy: Strategy, name: str, damage: str) -> None:
    file = two / step_name(20) / name
    DAMAGES[damage](file)
    reported: list[str] = []
    progress = restore(two, SmallRun(strategy).state, reported.append)
    assert progress == Progress(10, best_at(10))
    assert len(reported) == 1
    assert str(file) in reported[0]
    assert reported[0].endswith("skipped, trying the one before")
    assert pointed(two, "last") == step_name(10)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"\xff\xfe", b"3"])
def test_a_checkpoint_without_its_hashes_is_skipped(two: Path, strategy: Strategy, content: bytes | None) -> None:
    file = two / step_name(20) / "hashes.json"
    file.unlink() if content is None else file.write_bytes(content)
    reported: list[str] = []
    assert restore(two, SmallRun(strategy).state, reported.append).step == 10
    assert "no readable hashes.json" in reported[0]


def test_a_run_with_damaged_checkpoints_only_starts_at_step_0_without_links(two: Path, strategy: Strategy) -> None:
    for step in (10, 20):
        flip_a_bit(two / step_name(step) / "state.json")
    reported: list[str] = []
    run = SmallRun(strategy)
    assert restore(two, run.state, reported.append) == Progress()
    assert len(reported) == 2
    assert read_progress(two / "last") == Progress()
    save(two, run.state, Progress(5, best_at(5)), keep=1)
    assert_complete(two, 5)


def test_a_new_checkpoint_is_not_pruned_for_a_damaged_later_one(two: Path, strategy: Strategy) -> None:
    flip_a_bit(two / step_name(20) / "model.safetensors")
    run = SmallRun(strategy)
    restore(two, run.state, lambda _: None)
    save(two, run.state, Progress(15, best_at(15)), keep=1)
    assert_complete(two, 15)


def test_a_damaged_best_is_chosen_anew(two: Path, strategy: Strategy) -> None:
    flip_a_bit(two / step_name(10) / "model.safetensors")
    reported: list[str] = []
    progress = restore(two, SmallRun(strategy).state, reported.append)
    assert (progress.step, progress.best, progress.num_bad_validations) == (20, None, 0)
    assert reported[0].endswith(
        "damaged: it does not match its hash; it was the best so far: the best is chosen anew from here"
    )
    assert pointed(two, "best") == step_name(20)


def test_best_points_to_the_best_of_the_restored_progress(two: Path, strategy: Strategy) -> None:
    run = SmallRun(strategy)
    save(two, run.state, Progress(30, best_at(30)), keep=3)
    flip_a_bit(two / step_name(30) / "model.safetensors")
    assert restore(two, run.state, lambda _: None).best == best_at(10)
    assert pointed(two, "best") == step_name(10)


def test_leftovers_of_an_interrupted_save_are_deleted(two: Path, strategy: Strategy) -> None:
    for name in (f".{step_name(17)}.tmp", f".{step_name(3)}.old"):
        shutil.copytree(two / step_name(20), two / name)
    save(two, SmallRun(strategy).state, Progress(30, best_at(10)), keep=1)
    assert {path.name for path in two.iterdir()} == {step_name(10), step_name(30), "last", "best"}


def test_replaced_weights_do_not_match_their_hash(two: Path, strategy: Strategy) -> None:
    save_file({"0.weight": torch.zeros(9)}, two / step_name(20) / "model.safetensors")
    reported: list[str] = []
    assert restore(two, SmallRun(strategy).state, reported.append).step == 10
    assert len(reported) == 1


def test_a_step_that_is_saved_again_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two renames: the first comes back."""
    final = tmp_path / "step-00000007"
    for text in ("first", "second"):
        temporary = tmp_path / ".step-00000007.tmp"
        temporary.mkdir()
        (temporary / "model.safetensors").write_text(text)
        if text == "first":
            atomic.commit(temporary, final)
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if path == temporary:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        atomic.commit(temporary, final)
    monkeypatch.undo()
    assert not final.exists()
    assert atomic.find_newest(tmp_path, lambda message: None) == final
    assert (final / "model.safetensors").read_text() == "first"
    atomic.commit(temporary, final)
    assert (final / "model.safetensors").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
