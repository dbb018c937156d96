"""A trained network gives the same outputs when loaded; a missing or damaged one is one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from launcher.checkpoint.restore import load_weights
from launcher.checkpoint.state import step_name
from launcher.commands.model.load import find_checkpoint, load_trained
from launcher.errors import RunError
from shards.manifest import read_manifest
from tests.harness.small_run import alone
from tests.harness.workdir import LENET, WorkDir

PLAIN = ("backbone.freeze=none", "optim.ema_decay=0.5")


@pytest.fixture
def run(workdir: WorkDir) -> Path:
    """A run of LeNet with two checkpoints and averaged weights."""
    assert workdir.train(LENET, *PLAIN, "train.epochs=4st", "checkpoint.every=2st") == 0
    return workdir.path / "run"


def test_load_trained_gives_the_network_that_was_evaluated(workdir: WorkDir, run: Path) -> None:
    trained = load_trained(run, "best", alone())
    parts = workdir.build(LENET, *PLAIN, "run.dir=other")
    stage = parts.enter(0)
    load_weights(trained.checkpoint, stage.eval_model, ema=True)
    images_BCHW = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(trained.model(images_BCHW), stage.eval_model.eval()(images_BCHW))
    parts.close()
    assert trained.spec.classes == read_manifest(workdir.path / "shards").classes
    augment = parts.inputs.image_feeds["valid"].augment
    assert torch.equal(trained.augment.lut_CV, augment.lut_CV)
    assert trained.augment.ops == augment.ops == parts.job.recipe.augment.eval


def test_load_trained_needs_only_a_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints" / step_name(3), tmp_path / "alone")
    trained = load_trained(tmp_path / "alone", "best", alone())
    same = load_trained(run, "3", alone())
    for name, tensor in trained.model.state_dict().items():
        np.testing.assert_array_equal(tensor, same.model.state_dict()[name])


def test_find_checkpoint_by_name_and_step(run: Path) -> None:
    assert find_checkpoint(run, "last").name == find_checkpoint(run, "4").name == step_name(4)
    assert find_checkpoint(run, "3").name == step_name(3)
    assert find_checkpoint(run / "checkpoints/best", "best").name == step_name(3)


def test_missing_or_damaged_checkpoint_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere: no such folder; give a run's"):
        find_checkpoint(tmp_path / "nowhere", "best")
    with pytest.raises(RunError, match="neither a run's folder nor a checkpoint"):
        find_checkpoint(tmp_path, "best")
    with pytest.raises(RunError, match=r"--checkpoint 2: no such checkpoint; valid: best, last, 3, 4$"):
        find_checkpoint(run, "2")
    with pytest.raises(RunError, match=r"--checkpoint \.\./last: no such checkpoint; valid: best"):
        find_checkpoint(run, "../last")
    shutil.copytree(run, tmp_path / "copy", symlinks=True)
    (tmp_path / "copy/checkpoints/best").unlink()
    with pytest.raises(RunError, match=r"--checkpoint best: no such checkpoint; valid: last, 3, 4$"):
        find_checkpoint(tmp_path / "copy", "best")
    weights = tmp_path / "copy/checkpoints" / step_name(4) / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"ema.safetensors: damaged.*choose another checkpoint with --checkpoint"):
        load_trained(tmp_path / "copy", "last", alone())
    (tmp_path / "copy/checkpoints" / step_name(3) / "network.json").unlink()
    with pytest.raises(RunError, match=r"network.json: cannot be read"):
        load_trained(tmp_path / "copy", "3", alone())
    shutil.rmtree(tmp_path / "copy/checkpoints")
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_trained(tmp_path / "copy", "last", alone())
