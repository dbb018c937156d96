from __future__ import annotations

import pytest

from launcher.commands.jobs.tune.slurm import parse_options
from launcher.errors import UserError


def test_options_of_sbatch_become_the_job() -> None:
    job = parse_options("--partition=gpu --time=4:00:00 --gpus-per-node=2 --cpus-per-task=16 --account=lab")
    assert (job.nodes, job.time, job.gpus_per_node, job.cpus_per_task) == (1, "4:00:00", 2, 16)
    assert job.options == ("--partition=gpu", "--account=lab")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--partition gpu", "'--partition' is not an option; write --name=value"),
        ("--gpus-per-node=two", "must be a whole number"),
        ("--nodes=2", "--nodes cannot be set: a trial is one job on one node"),
        ("--array=0-3", "--array cannot be set: a trial is one job on one node"),
    ],
)
def test_wrong_option_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_options(text)
