"""The feeds of a training: which splits, how decoded, what is recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from launcher.augment.parameter_hash import NullParameterHashes, ParameterHashes
from launcher.errors import UserError
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


def test_images_may_be_skipped_only_where_the_recipe_says_so(workdir: WorkDir) -> None:
    for on_error, expected in (("fail", []), ("skip", ["train", "valid", "test"])):
        inputs = workdir.build(LENET, f"data.on_error={on_error}", f"run.dir={on_error}").inputs
        assert list(inputs.skipped._policies) == expected
        assert inputs.skipped.counts() == {}
