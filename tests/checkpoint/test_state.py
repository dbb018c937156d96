from __future__ import annotations

from launcher.checkpoint.state import Progress, step_name
from tests.harness.small_run import SmallRun, alone


def test_names_of_steps_sort_as_their_numbers() -> None:
    names = [step_name(step) for step in (0, 9, 10, 99_999_999)]
    assert names == ["step-00000000", "step-00000009", "step-00000010", "step-99999999"]
    assert names == sorted(names)


def test_progress_starts_before_the_first_step() -> None:
    progress = Progress()
    assert (progress.step, progress.validated_step, progress.num_bad_validations, progress.best) == (0, 0, 0, None)


def test_the_averaged_network_is_evaluated_when_there_is_one() -> None:
    strategy = alone()
    plain, averaged = SmallRun(strategy, ema=False).state, SmallRun(strategy).state
    assert plain.eval_model is plain.model is plain.network.model
    assert averaged.ema is not None
    assert averaged.eval_model is averaged.ema.module
    assert averaged.eval_model is not averaged.model
