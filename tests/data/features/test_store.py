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
from launcher.models.frozen.split import CutError
from launcher.run.pictures import GRID_IMAGES
from launcher.train import loop as fit
from launcher.train import stage as learner
from tests.data.made import pack_synthetic
from tests.harness.frozen_run import FLIPS, LENET, Place, plain_training
from tests.harness.runs import DIGITS, events, finish, start, summary, train, wait_until

SPLITS = {"train": 42, "valid": 9, "test": 9}
PICTURE = 12
"""Images of the first batch, which are read once more for pictures/augmented.png: features do not show them."""


def without_cut(place: Place) -> None:
    """As for a network that cannot be traced."""

    def refuse(*_: object) -> None:
        raise CutError("so that it runs whole")

    place.patch.setattr(learner, "cut_frozen", refuse)


def weights_file(place: Place, seed: int = 0) -> str:
    """As if pretrained: the same for every run, whatever its seed."""
    torch.manual_seed(seed)
    path = place.path / f"weights-{seed}.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), path)
    return f"backbone.weights={path}"


@pytest.mark.parametrize("how", ["kept", "not kept", "whole"])
@pytest.mark.parametrize("words", [[], ["backbone.freeze={except_last: 2}"], [LENET], ["backbone.name=resnet18"]])
def test_the_training_is_that_of_a_plain_loop(place: Place, words: list[str], how: str) -> None:
    if how == "whole":
        without_cut(place)
    room = [] if how == "kept" else ["strategy.feature_cache_gib=0"]
    # Without a best checkpoint before the last the final figures are of the last step.
    assert place.train(*words, *room, "train.evaluate_every=100") == 0
    losses, figures, _ = plain_training(place.load(*words))
    assert len(losses) == 6
    assert place.losses() == pytest.approx(losses, rel=1e-4)
    found = summary(place.path / "run")
    assert {split: found[split]["loss"] for split in figures} == pytest.approx(figures, rel=1e-4)
    assert {split: found[split]["num_images"] for split in figures} == {"valid": 9, "test": 9}
    assert sorted(facts["split"] for facts in place.kept()) == (sorted(SPLITS) if how == "kept" else [])
    assert any("runs as part of the whole" in message for message in place.said()) == (how == "whole")


def test_no_picture_is_read_twice(place: Place) -> None:
    ids = place.count_reads()
    place.train(LENET, "train.epochs=4", "train.eval_batch=3")
    assert len(ids) == sum(SPLITS.values()) + PICTURE
    place.train(LENET, "train.epochs=4", "run.dir=again", "optim.lr=0.01")
    assert len(ids) == sum(SPLITS.values()) + 2 * PICTURE
    assert [message.partition(":")[2][:10] for message in place.said("again")[-3:]] == [" read from"] * 3


@pytest.mark.parametrize("words", [[], [FLIPS, "augment.views=2"], ["train.global_batch=40"]])
def test_the_first_batch_is_shown_as_where_pictures_are_read(place: Place, words: list[str]) -> None:
    """Of a large batch as many images are read as the picture has."""
    place.train(LENET, *words, "strategy.feature_cache_gib=0", "run.dir=pictures")
    place.train(LENET, *words)
    ids = place.count_reads()
    place.train(LENET, *words, "run.dir=again")
    assert len(ids) == (GRID_IMAGES if "train.global_batch=40" in words else PICTURE)
    wanted = (place.path / "pictures/pictures/augmented.png").read_bytes()
    for run in ("run", "again"):
        assert (place.path / run / "pictures/augmented.png").read_bytes() == wanted
        assert "augmented" in [record["picture"] for record in events(place.path / run, "picture")]


def test_without_its_images_a_run_on_stored_features_only_lacks_the_picture(place: Place) -> None:
    data = place.path / "mine"
    shutil.copytree(place.path / "shards", data)
    place.train(LENET, f"data.dir={data}")
    for tar in data.glob("train*.tar"):
        tar.write_bytes(b"")
    assert place.train(LENET, f"data.dir={data}", "run.dir=again") == 0
    assert place.losses("again") == place.losses()
    assert not (place.path / "again/pictures/augmented.png").exists()
    [note] = [record["message"] for record in events(place.path / "again", "note") if "augmented" in record["message"]]
    assert note.startswith(f"augmented.png could not be drawn: {data}")


@pytest.mark.parametrize("epochs", [2, 5])
def test_views_are_used_in_turn(place: Place, epochs: int) -> None:
    words = [LENET, FLIPS, f"train.epochs={epochs}", "augment.views=2", "data.cache=none"]
    place.train(*words, "strategy.feature_cache_gib=0", "run.dir=pictures")
    ids = place.count_reads()
    place.train(*words, "train.eval_batch=3")
    assert len(ids) == 2 * 42 + 9 + 9 + PICTURE
    assert place.losses() == pytest.approx(place.losses("pictures"), rel=1e-5)
    assert sorted(str(facts["drawn"]) for facts in place.kept() if facts["split"] == "train") == [
        "{'seed': 0, 'view': 0}",
        "{'seed': 0, 'view': 1}",
    ]


def test_only_the_views_that_a_stage_uses_are_computed(place: Place) -> None:
    """A stage of one epoch, the second: it uses the second of three views."""
    schedule = "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 1, freeze: {except_last: 1}}]}"
    words = [LENET, FLIPS, schedule, "augment.views=3"]
    place.train(*words, "strategy.feature_cache_gib=0", "run.dir=pictures")
    place.train(*words)
    assert place.losses() == pytest.approx(place.losses("pictures"), rel=1e-5)
    assert sorted(facts["drawn"]["view"] for facts in place.kept() if facts["split"] == "train") == [0, 1]


def test_without_views_random_pictures_are_not_kept(place: Place) -> None:
    place.train(LENET, FLIPS)
    assert sorted(facts["split"] for facts in place.kept()) == ["test", "valid"]


def test_mixed_pictures_are_not_kept(place: Place) -> None:
    """Those that are evaluated are."""
    place.train("augment.mixup={alpha: 0.2}")
    place.train("augment.mixup={alpha: 0.2}", "run.dir=pictures", "strategy.feature_cache_gib=0")
    assert {record["split"] for record in place.kept()} == {"valid", "test"}
    assert place.losses() == pytest.approx(place.losses("pictures"), rel=1e-5)


def test_training_and_evaluation_of_other_sizes(place: Place) -> None:
    sizes = ["augment.train.0.size=[32,32]", "augment.eval.0.size=[64,64]", "backbone.freeze={except_last: 2}"]
    place.train(*sizes, "strategy.feature_cache_gib=0", "run.dir=pictures")
    place.train(*sizes)
    assert place.losses() == pytest.approx(place.losses("pictures"), rel=1e-4)
    kept = {facts["split"]: facts["layout"]["values"][0]["shape"] for facts in place.kept()}
    assert kept == {"train": [96, 2, 2], "valid": [96, 4, 4], "test": [96, 4, 4]}
    for split in ("valid", "test"):
        figures = [summary(place.path / run)[split]["loss"] for run in ("pictures", "run")]
        assert figures[0] == pytest.approx(figures[1], rel=1e-4)


def test_what_there_is_no_room_for_is_not_kept_and_it_says_so(place: Place) -> None:
    record_bytes = 84 * 4 + 8
    room = 30 * record_bytes / 2**30  # for valid and test, not for train
    place.train(LENET, f"strategy.feature_cache_gib={room}")
    assert sorted(facts["split"] for facts in place.kept()) == ["test", "valid"]
    too_large = f"features of train: not kept, 14.1 KiB are over strategy.feature_cache_gib, {room:g}"
    assert too_large in place.said()


def test_a_training_too_short_computes_no_features_of_all_images(place: Place) -> None:
    ids = place.count_reads()
    place.train(LENET, "train.epochs=1st", "train.eval_batch=3", "data.workers=0")
    assert sorted(facts["split"] for facts in place.kept()) == ["test", "valid"]
    assert len(ids) == 12 + 9 + 9
    assert "features of train: not kept, training is too short to use them all" in place.said()


def test_another_head_and_seed_read_the_same_features(place: Place) -> None:
    weights = weights_file(place)
    place.train(weights)
    ids = place.count_reads()
    place.train(weights, "run.dir=other", "run.seed=7", "backbone.head={hidden: [8], dropout: 0.5}", "optim.lr=0.01")
    assert len(ids) == PICTURE
    assert len(place.kept()) == 3
    assert sum("read from" in message for message in place.said("other")) == 3


@pytest.mark.parametrize("what", ["weights", "augment.eval.0.size=[40,40]", "augment.mean=[0.4,0.5,0.5]", "data",
                                  "strategy.precision=bf16", "backbone.freeze={except_last: 1}"])  # fmt: skip
def test_other_features_are_computed_anew(place: Place, what: str) -> None:
    weights = weights_file(place)
    place.train(weights, "train.epochs=1")
    words = {"weights": weights_file(place, 1), "data": f"data.dir={place.path / 'more'}"}
    if what == "data":
        pack_synthetic(place.path / "more", images_per_shard=8)
    if what.startswith("strategy"):
        AcceleratorState._reset_state(reset_partial_state=True)
    place.train(weights, words.get(what, what), "train.epochs=1", "run.dir=other")
    if what.startswith("strategy"):
        AcceleratorState._reset_state(reset_partial_state=True)
    num_new = 2 if "eval" in what else 3
    assert len(place.kept()) == 3 + num_new
    assert sum("computing" in message for message in place.said("other")) == num_new


def test_random_ops_are_of_their_seed(place: Place) -> None:
    weights = weights_file(place)
    words = [weights, FLIPS, "augment.views=1", "train.epochs=1"]
    place.train(*words)
    place.train(*words, "run.dir=other", "run.seed=1")
    assert sorted(facts["split"] for facts in place.kept()) == ["test", "train", "train", "valid"]


def test_dropout_after_a_frozen_batchnorm(place: Place) -> None:
    head = "backbone.head={hidden: [8], dropout: 0.5}"
    place.train(head, "strategy.feature_cache_gib=0", "run.dir=pictures")
    place.train(head)
    assert place.losses() == pytest.approx(place.losses("pictures"), rel=1e-4)
    torch.manual_seed(0)
    before = torchvision.models.shufflenet_v2_x0_5().state_dict()
    after = load_file(place.path / "run/checkpoints/last/model.safetensors")
    changed = [name for name in before if not name.startswith("fc.") and not torch.equal(before[name], after[name])]
    assert changed == []
    hashes = {run: summary(place.path / run)["frozen_sha256"] for run in ("run", "pictures")}
    assert len(set(hashes.values())) == 1
    place.train("run.dir=other", "run.seed=1")
    assert summary(place.path / "other")["frozen_sha256"] not in {None, *hashes.values()}


def test_batchnorm_left_in_training_mode_is_found_out(place: Place) -> None:
    without_cut(place)
    place.patch.setattr(fit, "set_training", lambda model: model.train())
    with pytest.raises(AssertionError, match="a frozen tensor has changed"):
        place.train()
    assert summary(place.path / "run")["status"] == "failed"


def test_nothing_frozen_keeps_nothing(place: Place) -> None:
    place.train(LENET, "backbone.freeze=none", "train.epochs=1")
    assert summary(place.path / "run")["frozen_sha256"] is None
    assert not (place.path / "data").exists()


def test_bf16_features_are_of_half_the_size(place: Place) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    place.train("strategy.precision=bf16", "train.epochs=1", "backbone.freeze={except_last: 1}")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert {facts["layout"]["values"][0]["dtype"] for facts in place.kept()} == {"bfloat16"}


def hidden(place: Place) -> list[str]:
    return [path.name for path in (place.path / "data/features").glob(".*")]


def test_asked_to_stop_while_computing_leaves_nothing(place: Place) -> None:
    records = feature_store.FeatureStore._records

    def stopping(store: feature_store.FeatureStore, *words: Any) -> Any:
        for i, rows in enumerate(records(store, *words)):
            yield rows
            if i == 1 and len(list(place.kept())) == 1:
                signal.raise_signal(signal.SIGUSR1)

    with place.patch.context() as patch:
        patch.setattr(feature_store.FeatureStore, "_records", stopping)
        with pytest.raises(Stopped, match="the same command computes them anew"):
            place.train(LENET, "train.eval_batch=3")
    assert summary(place.path / "run")["status"] == "preempted"
    assert (len(place.kept()), hidden(place)) == (1, [])
    ids = place.count_reads()
    place.train(LENET, "train.eval_batch=3")
    assert summary(place.path / "run")["status"] == "done"
    assert len(ids) == 42 + 9 + PICTURE


def test_what_a_killed_process_left_is_cleared_by_the_same_command(place: Place) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with place.patch.context() as patch:
        patch.setattr(feature_store, "commit_features", die)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process clears nothing away
        with pytest.raises(Killed):
            place.train(LENET)
    assert len(hidden(place)) == 1
    place.train(LENET)
    assert hidden(place) == []
    assert len(place.kept()) == 3


def test_a_disk_that_cannot_be_written_is_one_line(place: Place) -> None:
    (place.path / "data").mkdir()
    (place.path / "data/features").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written \(Not a directory\).*strategy.feature_cache_gib=0$"):
        place.train(LENET)


def test_a_full_disk_is_one_line_and_leaves_nothing(place: Place) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    place.patch.setattr(feature_store, "write_part", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        place.train(LENET)
    assert hidden(place) == []


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
