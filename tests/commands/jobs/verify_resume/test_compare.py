"""Made-up histories, real journals and real weights: each difference is found where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launcher.commands.jobs.verify_resume.compare import (
    EXACT,
    History,
    Row,
    Steps,
    Tolerance,
    chain,
    compare_augmentation,
    compare_losses,
    compare_resume,
    compare_samples,
    compare_weights,
    read_history,
    read_whole,
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


WHOLE = steps(*range(1, 11))
RIGHT = History(steps(*range(1, 7)), steps(*range(5, 11)), resumed_at=4)


def test_what_is_the_same_is_the_same() -> None:
    assert compare_resume(WHOLE, RIGHT) == "same: killed after step 6, went on from step 4"
    assert compare_samples(WHOLE, RIGHT) == f"same: 10 steps, chain {chain(WHOLE, 'samples')}"
    assert compare_augmentation(WHOLE, RIGHT) == f"same: 10 steps, chain {chain(WHOLE, 'augmentation')}"
    assert compare_losses(WHOLE, RIGHT, EXACT, EXACT) == "same: to the last digit"


@pytest.mark.parametrize(
    ("key", "value", "compare", "words"),
    [
        ("samples", [9, 6], compare_samples, "sample 1 of 2 is 9, not {step}"),
        ("samples", [9], compare_samples, "1 samples, not 2"),
        ("augmentation", "f" * 16, compare_augmentation, "parameters with hash ffffffff, not 00000000"),
    ],
)
@pytest.mark.parametrize("step", [3, 5])
def test_a_difference_is_named_before_the_kill_and_after(
    key: str, value: object, compare: Callable[[Steps, History], str], words: str, step: int
) -> None:
    other = {step: {**record(step), key: value}}
    before = replace(RIGHT, before={**RIGHT.before, **other})
    assert compare(WHOLE, before) == f"differs at step {step} before the kill ({words.format(step=step)})"
    if step in RIGHT.after:  # done twice: right before the kill, wrong after it
        after = replace(RIGHT, after={**RIGHT.after, **other})
        assert compare(WHOLE, after) == f"differs at step {step} ({words.format(step=step)})"


def test_losses_within_a_tolerance() -> None:
    rounding = Tolerance(1e-3, "sums are rounded in another order")
    for share, verdict in ((5e-4, "same: within 0.10%, as sums are rounded in another order"), (2e-3, "differs")):
        after = {**RIGHT.after, 7: {**record(7), "loss": (1 + share) / 7}}
        history = replace(RIGHT, after=after)
        assert compare_losses(WHOLE, history, EXACT, rounding).startswith(verdict)
        assert compare_losses(WHOLE, history, EXACT, EXACT).startswith("differs at step 7 (loss ")


def test_losses_that_cannot_be_compared_are_compared_up_to_the_resume() -> None:
    history = replace(RIGHT, after={step: {**record(step), "loss": 5.0} for step in RIGHT.after})
    assert compare_losses(WHOLE, history, EXACT, "dropout") == "not comparable after step 4 (dropout)"
    history = replace(history, before={**RIGHT.before, 2: {**record(2), "loss": 5.0}})
    words = "differs at step 2 before the kill (loss 5.0, not 0.5)"
    assert compare_losses(WHOLE, history, EXACT, "dropout") == words


def test_a_loss_that_is_no_number_in_the_journal_is_no_other_loss() -> None:
    """The journal writes it as a word."""
    whole = {1: {**record(1), "loss": "inf"}}
    assert compare_losses(whole, History(whole, {}, 1), EXACT, EXACT) == "same: to the last digit"


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (replace(RIGHT, after=steps(*range(1, 11)), resumed_at=0), "at step 1 (began anew, although a checkpoint was"),
        (replace(RIGHT, after=steps(*range(6, 11))), "at step 5 (left out)"),
        (replace(RIGHT, after=steps(*range(5, 10))), "at step 10 (left out)"),
        (replace(RIGHT, after=steps(*range(5, 12))), "at step 11 (was not to be done)"),
        (replace(RIGHT, before=steps(1, 2, 4, 5, 6)), "at step 3 (left out)"),
        (History(steps(1, 2, 3), steps(*range(5, 11)), resumed_at=4), "at step 4 (left out)"),
    ],
)
def test_steps_left_out_or_done_for_nothing(history: History, words: str) -> None:
    assert compare_resume(WHOLE, history).startswith(f"differs {words}")


def test_a_chain_is_of_all_steps_and_their_order() -> None:
    assert chain(WHOLE, "samples") == chain(dict(reversed(WHOLE.items())), "samples")
    assert chain(WHOLE, "samples") != chain({**WHOLE, 1: record(2), 2: record(1)}, "samples")
    assert len({chain(steps(*range(1, last)), "samples") for last in range(1, 11)}) == 10


def write_journal(folder: Path, *starts: tuple[str, int, range]) -> None:
    folder.mkdir()
    journal = Journal(folder)
    for name, at, numbers in starts:
        journal.write("event", at, 1, name=name)
        for step in numbers:
            journal.write("train", step, 1, loss=1 / step, samples=[step])
    journal.close()


def test_histories_are_read_from_journals(tmp_path: Path) -> None:
    write_journal(tmp_path / "run", ("started", 0, range(1, 7)), ("resumed", 4, range(5, 11)))
    history = read_history(tmp_path / "run")
    assert (sorted(history.before), sorted(history.after)) == ([1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 9, 10])
    assert history.resumed_at == 4
    write_journal(tmp_path / "once", ("started", 0, range(1, 7)))
    assert sorted(read_whole(tmp_path / "once")) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(SpawnedRunError, match="its journal has 1 starts, not 2"):
        read_history(tmp_path / "once")


def write_weights(folder: Path, name: str, **tensors: torch.Tensor) -> Path:
    last = folder / "checkpoints" / "last"
    last.mkdir(parents=True, exist_ok=True)
    save_file(tensors, last / f"{name}.safetensors")
    return folder


def test_weights_are_compared_bit_by_bit(tmp_path: Path) -> None:
    one, two = torch.ones(3), torch.ones(3)
    whole = write_weights(tmp_path / "whole", "model", a=one, b=one * 2)
    same = write_weights(tmp_path / "same", "model", a=two, b=two * 2)
    assert compare_weights(whole, same, 10) == "same: to the last bit"
    other = write_weights(tmp_path / "other", "model", a=two + 2**-23, b=two * 2)
    assert compare_weights(whole, other, 10) == "differs at step 10 (1 tensors, model a by up to 1.2e-07)"
    more = write_weights(tmp_path / "more", "model", a=one)
    assert compare_weights(whole, more, 10) == "differs at step 10 (model.safetensors is of another network)"


def test_averaged_weights_count_too(tmp_path: Path) -> None:
    whole, other = (write_weights(tmp_path / name, "model", a=torch.ones(3)) for name in ("whole", "other"))
    write_weights(whole, "ema", a=torch.ones(3))
    assert compare_weights(whole, other, 4).startswith("differs at step 4 (ema.safetensors is of another")
    write_weights(other, "ema", a=torch.zeros(3))
    assert compare_weights(whole, other, 4) == "differs at step 4 (1 tensors, ema a by up to 1)"


def test_only_a_difference_is_a_difference() -> None:
    assert [Row("", "", words).differs for words in ("same: all", "not comparable (why)", "differs at step 1")] == [
        False,
        False,
        True,
    ]
