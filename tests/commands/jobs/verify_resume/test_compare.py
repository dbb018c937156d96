"""Invented records, real journals and real weights: each difference is found where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launcher.commands.jobs.verify_resume.compare import (
    EXACT,
    Comparison,
    KilledRun,
    Steps,
    Tolerance,
    compare_losses,
    compare_resume,
    compare_runs,
    compare_weights,
    hash_chain,
    read_killed_run,
    read_steps,
)
from launcher.errors import SpawnedRunError
from launcher.run.journal import Journal, Record


def record(step: int) -> Record:
    return {
        "step": step,
        "kind": "train",
        "loss": 1 / step,
        "samples": [step, 2 * step],
        "augmentation": f"{step:016x}",
    }


def steps(*numbers: int) -> Steps:
    return {step: record(step) for step in numbers}


EXPECTED = steps(*range(1, 11))
RIGHT = KilledRun(steps(*range(1, 7)), steps(*range(5, 11)), resumed_at=4)


def test_equal_runs_are_the_same() -> None:
    assert compare_runs(EXPECTED, RIGHT, EXACT, EXACT) == {
        "resume": "same: killed after step 6, resumed at step 4",
        "sample ids": f"same: 10 steps, hash {hash_chain(EXPECTED, 'samples')}",
        "augmentation": f"same: 10 steps, hash {hash_chain(EXPECTED, 'augmentation')}",
        "losses": "same: to the last digit",
    }


@pytest.mark.parametrize(
    ("key", "value", "what", "words"),
    [
        ("samples", [9, 6], "sample ids", "sample 1 of 2 is 9, not {step}"),
        ("samples", [9], "sample ids", "1 samples, not 2"),
        ("augmentation", "f" * 16, "augmentation", "parameters with hash ffffffff, not 00000000"),
    ],
)
@pytest.mark.parametrize("step", [3, 5])
def test_difference_is_named_before_the_kill_and_after_the_resume(
    key: str, value: object, what: str, words: str, step: int
) -> None:
    other = {step: {**record(step), key: value}}
    before = replace(RIGHT, before={**RIGHT.before, **other})
    found = compare_runs(EXPECTED, before, EXACT, EXACT)[what]
    assert found == f"differs at step {step} before the kill ({words.format(step=step)})"
    if step in RIGHT.after:  # ran twice: right before the kill, wrong after the resume
        after = replace(RIGHT, after={**RIGHT.after, **other})
        found = compare_runs(EXPECTED, after, EXACT, EXACT)[what]
        assert found == f"differs at step {step} ({words.format(step=step)})"


def test_losses_within_the_tolerance_are_the_same() -> None:
    rounding = Tolerance(1e-3, "sums are rounded in another order")
    for difference, verdict in ((5e-4, "same: within 0.10%, as sums are rounded in another order"), (2e-3, "differs")):
        after = {**RIGHT.after, 7: {**record(7), "loss": (1 + difference) / 7}}
        run = replace(RIGHT, after=after)
        assert compare_losses(EXPECTED, run, EXACT, rounding).startswith(verdict)
        assert compare_losses(EXPECTED, run, EXACT, EXACT).startswith("differs at step 7 (loss ")


def test_losses_are_compared_before_the_kill_also_where_later_ones_cannot_be() -> None:
    run = replace(RIGHT, after={step: {**record(step), "loss": 5.0} for step in RIGHT.after})
    assert compare_losses(EXPECTED, run, EXACT, "dropout") == "not comparable after step 4 (dropout)"
    run = replace(run, before={**RIGHT.before, 2: {**record(2), "loss": 5.0}})
    words = "differs at step 2 before the kill (loss 5.0, not 0.5)"
    assert compare_losses(EXPECTED, run, EXACT, "dropout") == words


def test_infinite_losses_are_the_same() -> None:
    """The journal writes them as words."""
    expected = {1: {**record(1), "loss": "inf"}}
    assert compare_losses(expected, KilledRun(expected, {}, 1), EXACT, EXACT) == "same: to the last digit"


def test_an_infinite_loss_is_never_close_to_a_finite_one() -> None:
    run = KilledRun({1: {**record(1), "loss": "inf"}}, {}, 1)
    assert compare_losses(steps(1), run, Tolerance(1e-3, ""), EXACT) == (
        "differs at step 1 before the kill (loss inf, not 1.0)"
    )


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (replace(RIGHT, after=steps(*range(1, 11)), resumed_at=0), "at step 1 (started at step 0, although a check"),
        (replace(RIGHT, after=steps(*range(6, 11))), "at step 5 (missing)"),
        (replace(RIGHT, after=steps(*range(5, 10))), "at step 10 (missing)"),
        (replace(RIGHT, after=steps(*range(5, 12))), "at step 11 (unexpected)"),
        (replace(RIGHT, before=steps(1, 2, 4, 5, 6)), "at step 3 (missing)"),
        (KilledRun(steps(1, 2, 3), steps(*range(5, 11)), resumed_at=4), "at step 4 (missing)"),
    ],
)
def test_missing_and_unexpected_steps_differ(run: KilledRun, words: str) -> None:
    assert compare_resume(EXPECTED, run).startswith(f"differs {words}")


def test_hash_chain_depends_on_every_step_and_their_order() -> None:
    assert hash_chain(EXPECTED, "samples") == hash_chain(dict(reversed(EXPECTED.items())), "samples")
    assert hash_chain(EXPECTED, "samples") != hash_chain({**EXPECTED, 1: record(2), 2: record(1)}, "samples")
    assert len({hash_chain(steps(*range(1, last)), "samples") for last in range(1, 11)}) == 10


def write_journal(folder: Path, *starts: tuple[str, int, range]) -> None:
    folder.mkdir()
    journal = Journal(folder, steps_per_epoch=5)
    for name, at, numbers in starts:
        journal.write("event", at, name=name)
        for step in numbers:
            journal.write("train", step, loss=1 / step, samples=[step])
    journal.close()


def test_killed_run_is_read_from_its_journal(tmp_path: Path) -> None:
    write_journal(tmp_path / "run", ("started", 0, range(1, 7)), ("resumed", 4, range(5, 11)))
    run = read_killed_run(tmp_path / "run")
    assert (sorted(run.before), sorted(run.after)) == ([1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 9, 10])
    assert run.resumed_at == 4
    write_journal(tmp_path / "once", ("started", 0, range(1, 7)))
    assert sorted(read_steps(tmp_path / "once")) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(SpawnedRunError, match="its journal has 1 starts, not 2"):
        read_killed_run(tmp_path / "once")


def write_weights(folder: Path, name: str, **tensors: torch.Tensor) -> Path:
    last = folder / "checkpoints" / "last"
    last.mkdir(parents=True, exist_ok=True)
    save_file(tensors, last / f"{name}.safetensors")
    return folder


def test_weights_are_compared_bit_by_bit(tmp_path: Path) -> None:
    one, two = torch.ones(3), torch.ones(3)
    expected = write_weights(tmp_path / "expected", "model", a=one, b=one * 2)
    same = write_weights(tmp_path / "same", "model", a=two, b=two * 2)
    assert compare_weights(expected, same, 10) == "same: to the last bit"
    other = write_weights(tmp_path / "other", "model", a=two + 2**-23, b=two * 2)
    assert compare_weights(expected, other, 10) == "differs at step 10 (1 tensors, model a by up to 1.2e-07)"
    more = write_weights(tmp_path / "more", "model", a=one)
    assert compare_weights(expected, more, 10) == "differs at step 10 (model.safetensors has other tensors)"


def test_averaged_weights_are_compared(tmp_path: Path) -> None:
    expected, other = (write_weights(tmp_path / name, "model", a=torch.ones(3)) for name in ("expected", "other"))
    write_weights(expected, "ema", a=torch.ones(3))
    assert compare_weights(expected, other, 4).startswith("differs at step 4 (ema.safetensors has other tensors)")
    write_weights(other, "ema", a=torch.zeros(3))
    assert compare_weights(expected, other, 4) == "differs at step 4 (1 tensors, ema a by up to 1)"


def test_only_the_verdict_differs_is_a_difference() -> None:
    assert [
        Comparison("", "", verdict).differs for verdict in ("same: all", "not comparable (why)", "differs at step 1")
    ] == [
        False,
        False,
        True,
    ]
