from __future__ import annotations

from pathlib import Path

import pytest

from launcher.commands.jobs.options import SubmitOptions, TuneOptions, VerifyOptions
from launcher.errors import UserError

SEARCH = Path("s.yaml")


def test_defaults_are_valid() -> None:
    for options in (TuneOptions(search=SEARCH), VerifyOptions(), SubmitOptions()):
        options.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TuneOptions(search=SEARCH, parallel=0), "--parallel 0: must be at least 1"),
        (TuneOptions(search=SEARCH, processes=0), "--processes 0: must be at least 1"),
        (
            TuneOptions(search=SEARCH, processes=2, slurm=""),
            "--processes is for trials on this machine; with --slurm, set --gpus-per-node in its options",
        ),
        (VerifyOptions(steps=3), "--steps 3: must be at least 4: for a checkpoint, a kill and steps after it"),
        (VerifyOptions(processes=0), "--processes 0: must be at least 1"),
        (VerifyOptions(other_processes=0), "--other-processes 0: must be at least 1"),
        (VerifyOptions(hang_s=0.0), "--hang-s 0: must be more than 0"),
        (SubmitOptions(gpus_per_node=-1), "--nodes 1 --gpus-per-node -1: at least 1 node and 0 GPUs"),
        (SubmitOptions(account="a;b"), "--account a;b: is not a name that sbatch accepts"),
    ],
)
def test_wrong_option_is_refused(options: TuneOptions | VerifyOptions | SubmitOptions, message: str) -> None:
    with pytest.raises(UserError) as raised:
        options.check()
    assert str(raised.value) == message
