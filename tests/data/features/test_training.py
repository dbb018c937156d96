"""Trainings on features: the same as a plain loop over the whole network, and no image read twice."""

from __future__ import annotations

import shutil

import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from launcher.models.frozen.split import SplitError
from launcher.run.image_grid import GRID_IMAGES
from launcher.train import loop, stage
from tests.harness.runs import events, summary
from tests.harness.workdir import FLIPS, LENET, WorkDir, plain_training

SPLITS = {"train": 42, "valid": 9, "test": 9}
GRID = 12
"""Images of the first batch, which are read once more for pictures/augmented.png: features do not show them."""


def without_split(workdir: WorkDir) -> None:
    """As for a network that cannot be traced."""

    def refuse(*_: object) -> None:
        raise SplitError("so that it runs whole")

    workdir.patch.setattr(stage, "split_network", refuse)


@pytest.mark.parametrize("how", ["kept", "not kept", "whole"])
@pytest.mark.parametrize("words", [[], ["backbone.freeze={except_last: 2}"], [LENET], ["backbone.name=resnet18"]])
def test_training_equals_a_plain_loop(workdir: WorkDir, words: list[str], how: str) -> None:
    if how == "whole":
        without_split(workdir)
    room = [] if how == "kept" else ["strategy.feature_cache_gib=0"]
    # With a single validation, the last step is the best: final metrics are of its weights.
    assert workdir.train(*words, *room, "train.evaluate_every=100") == 0
    losses, metrics, _ = plain_training(workdir.load(*words))
    assert len(losses) == 6
    assert workdir.losses() == pytest.approx(losses, rel=1e-4)
    found = summary(workdir.path / "run")
    assert {split: found[split]["loss"] for split in metrics} == pytest.approx(metrics, rel=1e-4)
    assert {split: found[split]["num_images"] for split in metrics} == {"valid": 9, "test": 9}
    assert sorted(metadata["split"] for metadata in workdir.kept()) == (sorted(SPLITS) if how == "kept" else [])
    assert any("runs as part of the whole" in message for message in workdir.said()) == (how == "whole")


def test_no_image_is_read_twice(workdir: WorkDir) -> None:
    ids = workdir.count_reads()
    workdir.train(LENET, "train.epochs=4", "train.eval_batch=3")
    assert len(ids) == sum(SPLITS.values()) + GRID
    workdir.train(LENET, "train.epochs=4", "run.dir=again", "optim.lr=0.01")
    assert len(ids) == sum(SPLITS.values()) + 2 * GRID
    assert [message.partition(":")[2][:10] for message in workdir.said("again")[-3:]] == [" read from"] * 3


@pytest.mark.parametrize("words", [[], [FLIPS, "augment.views=2"], ["train.global_batch=40"]])
def test_the_grid_of_the_first_batch_equals_that_of_a_run_on_images(workdir: WorkDir, words: list[str]) -> None:
    """For a large batch only the images of the grid are read."""
    workdir.train(LENET, *words, "strategy.feature_cache_gib=0", "run.dir=images")
    workdir.train(LENET, *words)
    ids = workdir.count_reads()
    workdir.train(LENET, *words, "run.dir=again")
    assert len(ids) == (GRID_IMAGES if "train.global_batch=40" in words else GRID)
    wanted = (workdir.path / "images/pictures/augmented.png").read_bytes()
    for run in ("run", "again"):
        assert (workdir.path / run / "pictures/augmented.png").read_bytes() == wanted
        assert "augmented" in [record["picture"] for record in events(workdir.path / run, "picture")]


def test_a_run_on_stored_features_without_images_only_lacks_the_grid(workdir: WorkDir) -> None:
    data = workdir.path / "mine"
    shutil.copytree(workdir.path / "shards", data)
    workdir.train(LENET, f"data.dir={data}")
    for tar in data.glob("train*.tar"):
        tar.write_bytes(b"")
    assert workdir.train(LENET, f"data.dir={data}", "run.dir=again") == 0
    assert workdir.losses("again") == workdir.losses()
    assert not (workdir.path / "again/pictures/augmented.png").exists()
    [note] = [
        record["message"] for record in events(workdir.path / "again", "note") if "augmented" in record["message"]
    ]
    assert note.startswith(f"augmented.png could not be drawn: {data}")


@pytest.mark.parametrize("epochs", [2, 5])
def test_views_are_used_in_turn(workdir: WorkDir, epochs: int) -> None:
    words = [LENET, FLIPS, f"train.epochs={epochs}", "augment.views=2", "data.cache=none"]
    workdir.train(*words, "strategy.feature_cache_gib=0", "run.dir=images")
    ids = workdir.count_reads()
    workdir.train(*words, "train.eval_batch=3")
    assert len(ids) == 2 * 42 + 9 + 9 + GRID
    assert workdir.losses() == pytest.approx(workdir.losses("images"), rel=1e-5)
    assert sorted(str(metadata["drawn"]) for metadata in workdir.kept() if metadata["split"] == "train") == [
        "{'seed': 0, 'view': 0}",
        "{'seed': 0, 'view': 1}",
    ]


def test_only_the_views_that_a_stage_uses_are_computed(workdir: WorkDir) -> None:
    """A stage of one epoch, the second: it uses the second of three views."""
    schedule = "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 1, freeze: {except_last: 1}}]}"
    words = [LENET, FLIPS, schedule, "augment.views=3"]
    workdir.train(*words, "strategy.feature_cache_gib=0", "run.dir=images")
    workdir.train(*words)
    assert workdir.losses() == pytest.approx(workdir.losses("images"), rel=1e-5)
    assert sorted(metadata["drawn"]["view"] for metadata in workdir.kept() if metadata["split"] == "train") == [0, 1]


def test_features_of_random_images_are_not_kept_without_views(workdir: WorkDir) -> None:
    workdir.train(LENET, FLIPS)
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "valid"]


def test_features_of_mixed_images_are_not_kept(workdir: WorkDir) -> None:
    """Features of evaluation images are kept."""
    workdir.train("augment.mixup={alpha: 0.2}")
    workdir.train("augment.mixup={alpha: 0.2}", "run.dir=images", "strategy.feature_cache_gib=0")
    assert {record["split"] for record in workdir.kept()} == {"valid", "test"}
    assert workdir.losses() == pytest.approx(workdir.losses("images"), rel=1e-5)


def test_training_and_evaluation_may_have_different_sizes(workdir: WorkDir) -> None:
    sizes = ["augment.train.0.size=[32,32]", "augment.eval.0.size=[64,64]", "backbone.freeze={except_last: 2}"]
    workdir.train(*sizes, "strategy.feature_cache_gib=0", "run.dir=images")
    workdir.train(*sizes)
    assert workdir.losses() == pytest.approx(workdir.losses("images"), rel=1e-4)
    kept = {metadata["split"]: metadata["layout"]["values"][0]["shape"] for metadata in workdir.kept()}
    assert kept == {"train": [96, 2, 2], "valid": [96, 4, 4], "test": [96, 4, 4]}
    for split in ("valid", "test"):
        metrics = [summary(workdir.path / run)[split]["loss"] for run in ("images", "run")]
        assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)


def test_features_without_room_are_not_kept_and_reported(workdir: WorkDir) -> None:
    record_bytes = 84 * 4 + 8
    room = 30 * record_bytes / 2**30  # for valid and test, not for train
    workdir.train(LENET, f"strategy.feature_cache_gib={room}")
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "valid"]
    too_large = "features of train: not kept, 14.1 KiB are more than strategy.feature_cache_gib has left"
    assert too_large in workdir.said()


def test_a_short_training_computes_no_features_of_all_images(workdir: WorkDir) -> None:
    ids = workdir.count_reads()
    workdir.train(LENET, "train.epochs=1st", "train.eval_batch=3", "data.workers=0")
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "valid"]
    assert len(ids) == 12 + 9 + 9
    assert "features of train: not kept, training is too short to use them all" in workdir.said()


def test_dropout_trains_after_a_frozen_batchnorm(workdir: WorkDir) -> None:
    head = "backbone.head={hidden: [8], dropout: 0.5}"
    workdir.train(head, "strategy.feature_cache_gib=0", "run.dir=images")
    workdir.train(head)
    assert workdir.losses() == pytest.approx(workdir.losses("images"), rel=1e-4)
    torch.manual_seed(0)
    before = torchvision.models.shufflenet_v2_x0_5().state_dict()
    after = load_file(workdir.path / "run/checkpoints/last/model.safetensors")
    changed = [name for name in before if not name.startswith("fc.") and not torch.equal(before[name], after[name])]
    assert changed == []
    hashes = {run: summary(workdir.path / run)["frozen_sha256"] for run in ("run", "images")}
    assert len(set(hashes.values())) == 1
    workdir.train("run.dir=other", "run.seed=1")
    assert summary(workdir.path / "other")["frozen_sha256"] not in {None, *hashes.values()}


def test_a_frozen_batchnorm_in_training_mode_asserts(workdir: WorkDir) -> None:
    without_split(workdir)
    workdir.patch.setattr(loop, "set_training", lambda model: model.train())
    with pytest.raises(AssertionError, match="a frozen tensor has changed"):
        workdir.train()
    assert summary(workdir.path / "run")["status"] == "failed"


def test_a_run_without_a_frozen_part_keeps_no_features(workdir: WorkDir) -> None:
    workdir.train(LENET, "backbone.freeze=none", "train.epochs=1")
    assert summary(workdir.path / "run")["frozen_sha256"] is None
    assert not (workdir.path / "data").exists()


def test_bf16_features_are_stored_as_bf16(workdir: WorkDir) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    workdir.train("strategy.precision=bf16", "train.epochs=1", "backbone.freeze={except_last: 1}")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert {metadata["layout"]["values"][0]["dtype"] for metadata in workdir.kept()} == {"bfloat16"}
