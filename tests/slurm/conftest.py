"""One cluster for all tests of this folder: they are one file, which `--dist=loadfile` keeps on one worker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.runs import environment
from tests.slurm.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Skips where no cluster can run, unless SLURM_TESTS=required."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("SLURM_TESTS") == "required":
            pytest.fail(f"SLURM_TESTS=required, but a cluster cannot run: {reason}")
        pytest.skip(reason)
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    cluster = Cluster(root, environment())
    cluster.start()
    yield cluster
    cluster.stop()
    shutil.rmtree(root)
