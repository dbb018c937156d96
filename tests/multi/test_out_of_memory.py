"""One of two processes runs out of GPU memory: one line for both, and the traceback in its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.runs import DIGITS, environment, ranks_of
from tests.harness.warm_ranks import WarmRanks


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_that_runs_out_of_memory_says_what_to_try(tmp_path: Path, digits: Path, rank: int) -> None:
    words = [str(DIGITS), f"data.dir={digits}", "run.dir=run", "log.wandb.mode=disabled"]
    faults = ["memory" if number == rank else "none" for number in range(2)]
    both = WarmRanks(words, tmp_path, environment(), ranks_of(2), faults)
    both.wait(60)
    assert both.codes is not None
    assert (both.codes[rank], both.codes[1 - rank]) == (2, 1)
    line, *others = [line for line in both.err.splitlines() if "note:" not in line]
    assert line == (
        "launcher: train.micro_batch: a forward pass of 16 images takes more memory than the GPU has "
        "(in reduce of step 39); try train.micro_batch=8 or data.cache=none or a smaller size in augment.train, "
        "with --allow-change or --fresh"
    )
    assert others == []
    assert "Traceback" not in both.err
    assert "OutOfMemoryError: CUDA out of memory" in (tmp_path / f"run/logs/rank-{rank}.log").read_text()


def test_two_that_run_out_print_one_line(tmp_path: Path, digits: Path) -> None:
    words = [str(DIGITS), f"data.dir={digits}", "run.dir=run", "log.wandb.mode=disabled"]
    both = WarmRanks(words, tmp_path, environment(), ranks_of(2), ["memory", "memory"])
    both.wait(60)
    assert both.err.count("launcher: train.micro_batch") == 1
