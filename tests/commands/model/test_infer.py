"""Single images enter the network as in a validation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launcher.augment.execute import build_augment
from launcher.commands.model.infer import build_eval_strategy, to_input
from launcher.data.reader import ShardReader
from launcher.errors import UserError
from shards.manifest import read_manifest
from tests.harness.workdir import WorkDir, plain_images


def test_to_input_gives_what_a_validation_sees(workdir: WorkDir) -> None:
    ops = "augment.eval=[{op: resize, size: 24}, {op: center_crop, size: 20}]"
    loaded = workdir.load(ops)
    augment = loaded.recipe.augment
    mean, std = augment.normalisation((0, 0, 0), (1, 1, 1))
    built = build_augment(augment.eval_ops, mean, std)
    wanted_BCHW, _ = plain_images(loaded, "valid")
    reader = ShardReader(Path("shards"), read_manifest(Path("shards")), "valid")
    for number, wanted_CHW in enumerate(wanted_BCHW):
        sample = reader.read(number)
        assert torch.equal(to_input(sample, built)[0], wanted_CHW)


def test_missing_gpu_names_the_device_option() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(UserError, match=r"but 0 GPUs: start with --num_processes 1, or give --device cpu$"):
        build_eval_strategy("cuda")
