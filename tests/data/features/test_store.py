"""The frozen part run once: the same training as a plain loop over the whole network, and no picture read twice."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from launcher.data.features import store as feature_store
from launcher.errors import DataError, Stopped
from launcher.models.frozen.split import SplitError
from launcher.run.pictures import GRID_IMAGES
from launcher.train import loop as fit
from launcher.train import stage as stage
from tests.data.made import pack_synthetic
from tests.harness.runs import DIGITS, events, finish, start, summary, train, wait_until
from tests.harness.workdir import FLIPS, LENET, WorkDir, plain_training

SPLITS = {"train": 42, "valid": 9, "test": 9}
PICTURE = 12
"""Images of the first batch, which are read once more for pictures/augmented.png: features do not show them."""


def without_cut(workdir: WorkDir) -> None:
    """As for a network that cannot be traced."""

    def refuse(*_: object) -> None:
        raise SplitError("so that it runs whole")

    workdir.patch.setattr(stage, "cut_frozen", refuse)


def weights_file(workdir: WorkDir, seed: int = 0) -> str:
    """As if pretrained: the same for every run, whatever its seed."""
    torch.manual_seed(seed)
    path = workdir.path / f"weights-{seed}.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), path)
    return f"backbone.weights={path}"


@pytest.mark.parametrize("how", ["kept", "not kept", "whole"])
@pytest.mark.parametrize("words", [[], ["backbone.freeze={except_last: 2}"], [LENET], ["backbone.name=resnet18"]])
def test_the_training_is_that_of_a_plain_loop(workdir: WorkDir, words: list[str], how: str) -> None:
    if how == "whole":
        without_cut(workdir)
    room = [] if how == "kept" else ["strategy.feature_cache_gib=0"]
    # Without a best checkpoint before the last the final figures are of the last step.
    assert workdir.train(*words, *room, "train.evaluate_every=100") == 0
    losses, metrics, _ = plain_training(workdir.load(*words))
    assert len(losses) == 6
    assert workdir.losses() == pytest.approx(losses, rel=1e-4)
    found = summary(workdir.path / "run")
    assert {split: found[split]["loss"] for split in metrics} == pytest.approx(metrics, rel=1e-4)
    assert {split: found[split]["num_images"] for split in metrics} == {"valid": 9, "test": 9}
    assert sorted(metadata["split"] for metadata in workdir.kept()) == (sorted(SPLITS) if how == "kept" else [])
    assert any("runs as part of the whole" in message for message in workdir.said()) == (how == "whole")


def test_no_picture_is_read_twice(workdir: WorkDir) -> None:
    ids = workdir.count_reads()
    workdir.train(LENET, "train.epochs=4", "train.eval_batch=3")
    assert len(ids) == sum(SPLITS.values()) + PICTURE
    workdir.train(LENET, "train.epochs=4", "run.dir=again", "optim.lr=0.01")
    assert len(ids) == sum(SPLITS.values()) + 2 * PICTURE
    assert [message.partition(":")[2][:10] for message in workdir.said("again")[-3:]] == [" read from"] * 3


@pytest.mark.parametrize("words", [[], [FLIPS, "augment.views=2"], ["train.global_batch=40"]])
def test_the_first_batch_is_shown_as_where_pictures_are_read(workdir: WorkDir, words: list[str]) -> None:
    """Of a large batch as many images are read as the picture has."""
    workdir.train(LENET, *words, "strategy.feature_cache_gib=0", "run.dir=pictures")
    workdir.train(LENET, *words)
    ids = workdir.count_reads()
    workdir.train(LENET, *words, "run.dir=again")
    assert len(ids) == (GRID_IMAGES if "train.global_batch=40" in words else PICTURE)
    wanted = (workdir.path / "pictures/pictures/augmented.png").read_bytes()
    for run in ("run", "again"):
        assert (workdir.path / run / "pictures/augmented.png").read_bytes() == wanted
        assert "augmented" in [record["picture"] for record in events(workdir.path / run, "picture")]


def test_without_its_images_a_run_on_stored_features_only_lacks_the_picture(workdir: WorkDir) -> None:
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
    workdir.train(*words, "strategy.feature_cache_gib=0", "run.dir=pictures")
    ids = workdir.count_reads()
    workdir.train(*words, "train.eval_batch=3")
    assert len(ids) == 2 * 42 + 9 + 9 + PICTURE
    assert workdir.losses() == pytest.approx(workdir.losses("pictures"), rel=1e-5)
    assert sorted(str(metadata["drawn"]) for metadata in workdir.kept() if metadata["split"] == "train") == [
        "{'seed': 0, 'view': 0}",
        "{'seed': 0, 'view': 1}",
    ]


def test_only_the_views_that_a_stage_uses_are_computed(workdir: WorkDir) -> None:
    """A stage of one epoch, the second: it uses the second of three views."""
    schedule = "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 1, freeze: {except_last: 1}}]}"
    words = [LENET, FLIPS, schedule, "augment.views=3"]
    workdir.train(*words, "strategy.feature_cache_gib=0", "run.dir=pictures")
    workdir.train(*words)
    assert workdir.losses() == pytest.approx(workdir.losses("pictures"), rel=1e-5)
    assert sorted(metadata["drawn"]["view"] for metadata in workdir.kept() if metadata["split"] == "train") == [0, 1]


def test_without_views_random_pictures_are_not_kept(workdir: WorkDir) -> None:
    workdir.train(LENET, FLIPS)
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "valid"]


def test_mixed_pictures_are_not_kept(workdir: WorkDir) -> None:
    """Those that are evaluated are."""
    workdir.train("augment.mixup={alpha: 0.2}")
    workdir.train("augment.mixup={alpha: 0.2}", "run.dir=pictures", "strategy.feature_cache_gib=0")
    assert {record["split"] for record in workdir.kept()} == {"valid", "test"}
    assert workdir.losses() == pytest.approx(workdir.losses("pictures"), rel=1e-5)


def test_training_and_evaluation_of_other_sizes(workdir: WorkDir) -> None:
    sizes = ["augment.train.0.size=[32,32]", "augment.eval.0.size=[64,64]", "backbone.freeze={except_last: 2}"]
    workdir.train(*sizes, "strategy.feature_cache_gib=0", "run.dir=pictures")
    workdir.train(*sizes)
    assert workdir.losses() == pytest.approx(workdir.losses("pictures"), rel=1e-4)
    kept = {metadata["split"]: metadata["layout"]["values"][0]["shape"] for metadata in workdir.kept()}
    assert kept == {"train": [96, 2, 2], "valid": [96, 4, 4], "test": [96, 4, 4]}
    for split in ("valid", "test"):
        metrics = [summary(workdir.path / run)[split]["loss"] for run in ("pictures", "run")]
        assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)


def test_what_there_is_no_room_for_is_not_kept_and_it_says_so(workdir: WorkDir) -> None:
    record_bytes = 84 * 4 + 8
    room = 30 * record_bytes / 2**30  # for valid and test, not for train
    workdir.train(LENET, f"strategy.feature_cache_gib={room}")
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "valid"]
    too_large = f"features of train: not kept, 14.1 KiB are over strategy.feature_cache_gib, {room:g}"
    assert too_large in workdir.said()


def test_a_training_too_short_computes_no_features_of_all_images(workdir: WorkDir) -> None:
    ids = workdir.count_reads()
    workdir.train(LENET, "train.epochs=1st", "train.eval_batch=3", "data.workers=0")
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "valid"]
    assert len(ids) == 12 + 9 + 9
    assert "features of train: not kept, training is too short to use them all" in workdir.said()


def test_another_head_and_seed_read_the_same_features(workdir: WorkDir) -> None:
    weights = weights_file(workdir)
    workdir.train(weights)
    ids = workdir.count_reads()
    workdir.train(weights, "run.dir=other", "run.seed=7", "backbone.head={hidden: [8], dropout: 0.5}", "optim.lr=0.01")
    assert len(ids) == PICTURE
    assert len(workdir.kept()) == 3
    assert sum("read from" in message for message in workdir.said("other")) == 3


@pytest.mark.parametrize("what", ["weights", "augment.eval.0.size=[40,40]", "augment.mean=[0.4,0.5,0.5]", "data",
                                  "strategy.precision=bf16", "backbone.freeze={except_last: 1}"])  # fmt: skip
def test_other_features_are_computed_anew(workdir: WorkDir, what: str) -> None:
    weights = weights_file(workdir)
    workdir.train(weights, "train.epochs=1")
    words = {"weights": weights_file(workdir, 1), "data": f"data.dir={workdir.path / 'more'}"}
    if what == "data":
        pack_synthetic(workdir.path / "more", images_per_shard=8)
    if what.startswith("strategy"):
        AcceleratorState._reset_state(reset_partial_state=True)
    workdir.train(weights, words.get(what, what), "train.epochs=1", "run.dir=other")
    if what.startswith("strategy"):
        AcceleratorState._reset_state(reset_partial_state=True)
    num_new = 2 if "eval" in what else 3
    assert len(workdir.kept()) == 3 + num_new
    assert sum("computing" in message for message in workdir.said("other")) == num_new


def test_random_ops_are_of_their_seed(workdir: WorkDir) -> None:
    weights = weights_file(workdir)
    words = [weights, FLIPS, "augment.views=1", "train.epochs=1"]
    workdir.train(*words)
    workdir.train(*words, "run.dir=other", "run.seed=1")
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "train", "train", "valid"]


def test_dropout_after_a_frozen_batchnorm(workdir: WorkDir) -> None:
    head = "backbone.head={hidden: [8], dropout: 0.5}"
    workdir.train(head, "strategy.feature_cache_gib=0", "run.dir=pictures")
    workdir.train(head)
    assert workdir.losses() == pytest.approx(workdir.losses("pictures"), rel=1e-4)
    torch.manual_seed(0)
    before = torchvision.models.shufflenet_v2_x0_5().state_dict()
    after = load_file(workdir.path / "run/checkpoints/last/model.safetensors")
    changed = [name for name in before if not name.startswith("fc.") and not torch.equal(before[name], after[name])]
    assert changed == []
    hashes = {run: summary(workdir.path / run)["frozen_sha256"] for run in ("run", "pictures")}
    assert len(set(hashes.values())) == 1
    workdir.train("run.dir=other", "run.seed=1")
    assert summary(workdir.path / "other")["frozen_sha256"] not in {None, *hashes.values()}


def test_batchnorm_left_in_training_mode_is_found_out(workdir: WorkDir) -> None:
    without_cut(workdir)
    workdir.patch.setattr(fit, "set_training", lambda model: model.train())
    with pytest.raises(AssertionError, match="a frozen tensor has changed"):
        workdir.train()
    assert summary(workdir.path / "run")["status"] == "failed"


def test_nothing_frozen_keeps_nothing(workdir: WorkDir) -> None:
    workdir.train(LENET, "backbone.freeze=none", "train.epochs=1")
    assert summary(workdir.path / "run")["frozen_sha256"] is None
    assert not (workdir.path / "data").exists()


def test_bf16_features_are_of_half_the_size(workdir: WorkDir) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    workdir.train("strategy.precision=bf16", "train.epochs=1", "backbone.freeze={except_last: 1}")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert {metadata["layout"]["values"][0]["dtype"] for metadata in workdir.kept()} == {"bfloat16"}


def hidden(workdir: WorkDir) -> list[str]:
    return [path.name for path in (workdir.path / "data/features").glob(".*")]


def test_asked_to_stop_while_computing_leaves_nothing(workdir: WorkDir) -> None:
    records = feature_store.FeatureStore._records

    def stopping(store: feature_store.FeatureStore, *words: Any) -> Any:
        for i, rows in enumerate(records(store, *words)):
            yield rows
            if i == 1 and len(list(workdir.kept())) == 1:
                signal.raise_signal(signal.SIGUSR1)

    with workdir.patch.context() as patch:
        patch.setattr(feature_store.FeatureStore, "_records", stopping)
        with pytest.raises(Stopped, match="the same command computes them anew"):
            workdir.train(LENET, "train.eval_batch=3")
    assert summary(workdir.path / "run")["status"] == "preempted"
    assert (len(workdir.kept()), hidden(workdir)) == (1, [])
    ids = workdir.count_reads()
    workdir.train(LENET, "train.eval_batch=3")
    assert summary(workdir.path / "run")["status"] == "done"
    assert len(ids) == 42 + 9 + PICTURE


def test_what_a_killed_process_left_is_cleared_by_the_same_command(workdir: WorkDir) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with workdir.patch.context() as patch:
        patch.setattr(feature_store, "commit_features", die)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process clears nothing away
        with pytest.raises(Killed):
            workdir.train(LENET)
    assert len(hidden(workdir)) == 1
    workdir.train(LENET)
    assert hidden(workdir) == []
    assert len(workdir.kept()) == 3


def test_a_disk_that_cannot_be_written_is_one_line(workdir: WorkDir) -> None:
    (workdir.path / "data").mkdir()
    (workdir.path / "data/features").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written \(Not a directory\).*strategy.feature_cache_gib=0$"):
        workdir.train(LENET)


def test_a_full_disk_is_one_line_and_leaves_nothing(workdir: WorkDir) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    workdir.patch.setattr(feature_store, "write_part", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        workdir.train(LENET)
    assert hidden(workdir) == []


def test_sigterm_while_computing(tmp_path: Path, digits: Path) -> None:
    words = [f"data.dir={digits}", "augment.train=[{op: resize, size: [32, 32]}]", "backbone.freeze=backbone",
             "train={epochs: 2, global_batch: 32, eval_batch: 4}", "run.dir=run", "log.wandb.mode=disabled",
             "data.workers=0", "optim.ema_decay=0.9"]  # fmt: skip
    process = start([DIGITS, *words], tmp_path)
    wait_until(lambda: any(tmp_path.glob("data/features/.*/part-0000.bin")), process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 75, ended.err
    assert "stopped while computing features; the same command computes them anew" in ended.err
    assert len(list(tmp_path.glob("data/features/*/features.json"))) < 3
    assert not list(tmp_path.glob("data/features/.*"))
    train(DIGITS, *words, cwd=tmp_path)
    assert summary(tmp_path / "run")["status"] == "done"
    assert len(list(tmp_path.glob("data/features/*/features.json"))) == 3
