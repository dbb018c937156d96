"""A GPU without enough memory, in words: which batch did not fit, and what to try. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launcher.distributed.watchdog.beacon import Position
from launcher.errors import GpuMemoryError
from launcher.recipe.plan import Plan
from launcher.recipe.problem import largest_divisor
from launcher.recipe.schema import Recipe
from launcher.text import show_count

EVAL_PHASES = ("evaluate", "features")
"""Phases in which the network is given batches of `train.eval_batch`."""

WORDS = (
    *("CUDA out of memory", "CUDA error: out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
"""Parts of the messages: libraries that allocate for themselves raise a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch raised the error because the memory of a GPU is not enough."""
    # By name: the command line does not wait for torch.
    return type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in WORDS)


@contextmanager
def out_of_memory_in_words(describe: Callable[[], str]) -> Iterator[None]:
    """Context that raises GpuMemoryError in place of torch's error. `describe`: its message, made at that moment."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise GpuMemoryError(describe()) from error


def describe_training(recipe: Recipe, plan: Plan, position: Position) -> str:
    """The message for a training that ran out of memory at `position`."""
    if position.phase in EVAL_PHASES:
        key, batch, smaller, ops = "train.eval_batch", plan.eval_batch, plan.eval_batch // 2, "augment.eval"
    else:
        key, batch, ops = "train.micro_batch", plan.micro_batch, "augment.train"
        smaller = find_smaller_micro_batch(recipe, plan)
    tries = [f"{key}={smaller}"] if smaller else []
    tries += ["data.cache=none"] if recipe.data.cache in ("auto", "device") else []
    tries += [f"a smaller size in {ops}"]
    where = f"{position.phase} of step {position.step}"
    return f"{does_not_fit(key, batch)} (in {where}); try {' or '.join(tries)}, with --allow-change or --fresh"


def does_not_fit(key: str, batch: int) -> str:
    """The beginning of the message. `key`: of the recipe, which sets the batch."""
    return f"{key}: a forward pass of {show_count(batch, 'image')} takes more memory than the GPU has"


def find_smaller_micro_batch(recipe: Recipe, plan: Plan) -> int:
    """Half of it, or the next below that divides a rank's images, in pairs where images are mixed. 0: there is none."""
    unit = 2 if recipe.augment.is_mixed else 1
    half = plan.micro_batch // 2 // unit
    return unit * largest_divisor(plan.rank_batch // unit, half) if half else 0
