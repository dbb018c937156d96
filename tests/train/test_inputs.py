"""The feeds of a training: which splits, how decoded, what is recorded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from launcher.augment.parameter_hash import NullParameterHashes, ParameterHashes
from launcher.errors import UserError
from launcher.train.inputs import _decodes_on_device
from launcher.train.job import Job
from tests.data.made import recipe_of
from tests.harness.workdir import FLIPS, LENET, WorkDir


def test_each_split_has_a_feed_and_only_training_is_augmented(workdir: WorkDir) -> None:
    inputs = workdir.build(LENET, FLIPS, "augment.mixup={alpha: 1}").inputs
    assert list(inputs.image_feeds) == ["train", "valid", "test"]
    assert [feed.mix is not None for feed in inputs.image_feeds.values()] == [True, False, False]
    assert all(feed.engine is None for feed in inputs.image_feeds.values()), "a stage puts its frozen part behind them"
    work = [(0, np.arange(4)), (1, np.arange(4))]
    for split, is_random in (("train", True), ("valid", False)):
        first, second = (each.inputs[0] for each in inputs.image_feeds[split].batches(work))
        assert first.shape == (4, 3, 32, 32)
        assert torch.equal(first, second) != is_random


@pytest.mark.parametrize(("samples", "expected"), [("true", ParameterHashes), ("false", NullParameterHashes)])
def test_augmentation_is_hashed_only_where_samples_are_logged(workdir: WorkDir, samples: str, expected: type) -> None:
    inputs = workdir.build(LENET, f"log.samples={samples}").inputs
    assert isinstance(inputs.image_feeds["train"].parameter_hashes(), expected)
    assert isinstance(inputs.image_feeds["valid"].parameter_hashes(), NullParameterHashes)


def test_fixed_views_are_of_training_alone(workdir: WorkDir) -> None:
    inputs = workdir.build(LENET, FLIPS, "augment.views=3").inputs
    assert [feed.num_views for feed in inputs.image_feeds.values()] == [3, None, None]


def test_decoding_on_a_gpu_needs_one(workdir: WorkDir) -> None:
    with pytest.raises(UserError, match=r"data\.decode: cuda decodes on a GPU and there is none here; use auto or cpu"):
        workdir.build(LENET, "data.decode=cuda")


def gpu_job(decode: str, is_available: list[bool]) -> Job:
    """A job of several ranks on GPUs; `is_available`: whether nvJPEG works on each."""
    comm = SimpleNamespace(all_gather_object=lambda value: is_available)
    strategy = SimpleNamespace(device=torch.device("cuda"), comm=comm)
    return cast(Job, SimpleNamespace(strategy=strategy, recipe=recipe_of(data={"source": "digits", "decode": decode})))


@pytest.mark.parametrize("decode", ["auto", "cpu"])
def test_nothing_is_decoded_on_a_gpu_unless_the_recipe_says_so(decode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto`, too, until nvJPEG has passed its test beside a training on a GPU."""
    monkeypatch.setattr("launcher.train.inputs.nvjpeg_on", pytest.fail)
    assert not _decodes_on_device(gpu_job(decode, []), pytest.fail)


def test_decoding_on_gpus_needs_nvjpeg_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.train.inputs.nvjpeg_on", lambda _: SimpleNamespace(is_available=lambda: True))
    said: list[str] = []
    assert _decodes_on_device(gpu_job("cuda", [True, True]), said.append)
    assert said == ["JPEG is decoded on the GPU by nvJPEG"]
    with pytest.raises(UserError, match=r"data\.decode: cuda needs a torchvision with nvJPEG; use auto or cpu"):
        _decodes_on_device(gpu_job("cuda", [True, False]), said.append)


def test_images_may_be_skipped_only_where_the_recipe_says_so(workdir: WorkDir) -> None:
    for on_error, expected in (("fail", []), ("skip", ["train", "valid", "test"])):
        inputs = workdir.build(LENET, f"data.on_error={on_error}", f"run.dir={on_error}").inputs
        assert list(inputs.skipped._policies) == expected
        assert inputs.skipped.counts() == {}
