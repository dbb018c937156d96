from __future__ import annotations

import itertools
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from launcher.augment.execute import build_augment
from launcher.data.decode import decode_image
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader
from launcher.data.reader import ShardReader
from launcher.distributed.comm import Comm
from launcher.distributed.strategy import Strategy, build_strategy
from launcher.distributed.world import World
from launcher.errors import Stopped
from launcher.metrics.counts import Counts
from launcher.models.lenet import LeNet
from launcher.models.loss import build_loss, class_scores
from launcher.recipe.schema import Bce, CrossEntropy, Loss
from launcher.recipe.schema import Strategy as StrategySection
from launcher.train.evaluate import EvalSplit, evaluate
from shards.manifest import read_manifest
from tests.data.made import pack_synthetic
from tests.harness.runs import events, journal, summary
from tests.harness.workdir import LENET, STAGES, WorkDir

NUM_IMAGES = 42
CROSS_ENTROPY = CrossEntropy(name="cross_entropy", label_smoothing=0.1)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    """The train split, evaluated as if it were the valid split: it has the most images."""
    folder = tmp_path_factory.mktemp("evaluate") / "shards"
    pack_synthetic(folder)
    return ShardReader(folder, read_manifest(folder), "train")


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return build_strategy(StrategySection(device="cpu"), World(), 0, False)


def valid(batch: int, num_classes: int = 3) -> EvalSplit:
    return EvalSplit("valid", NUM_IMAGES, num_classes, batch)


def lenet(num_outputs: int) -> LeNet:
    torch.manual_seed(0)
    return LeNet(num_outputs)


def count(model: nn.Module, reader: ShardReader, loss: Loss, split: EvalSplit, strategy: Strategy) -> Counts:
    loader = Loader(reader, 2, torch.device("cpu"))
    augment = build_augment((), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    feed = ImageFeed(loader, augment, strategy, seed=0, num_views=None, engine=None)
    counts = evaluate(model, feed, build_loss(loss, training=False), split, strategy)
    loader.close()
    return counts


def outputs_and_labels(model: nn.Module, reader: ShardReader) -> tuple[torch.Tensor, torch.Tensor]:
    """A plain loop over the same images, one after the other."""
    model.eval()
    samples = [reader.read(i) for i in range(NUM_IMAGES)]
    pixels_BHWC = torch.tensor(np.stack([decode_image(sample.content, "x") for sample in samples])).float()
    images_BCHW = (pixels_BHWC / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
    with torch.no_grad():
        outputs_BO = torch.cat([model(image_CHW[None]) for image_CHW in images_BCHW.permute(0, 3, 1, 2)])
    return outputs_BO, torch.tensor([sample.label for sample in samples])


@pytest.mark.parametrize("eval_batch", [1, 5, 16, 41, 42, 100])
def test_every_image_counts_once_with_batches_that_divide_nothing(
    reader: ShardReader, strategy: Strategy, eval_batch: int
) -> None:
    model = lenet(3)
    counts = count(model, reader, CROSS_ENTROPY, valid(eval_batch), strategy)
    outputs_BO, labels_B = outputs_and_labels(model, reader)
    metrics = counts.metrics("abc")
    assert metrics["num_images"] == counts.confusion_KK.sum() == NUM_IMAGES
    assert metrics["loss"] == pytest.approx(F.cross_entropy(outputs_BO, labels_B).item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((outputs_BO.argmax(1) == labels_B).float().mean().item())
    assert counts.per_class_K2[:, 0].tolist() == labels_B.bincount().tolist()


def test_one_logit_is_evaluated_as_two_classes(
    reader: ShardReader, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reader.read
    monkeypatch.setattr(reader, "read", lambda i: replace(whole(i), label=whole(i).label % 2))
    model = lenet(1)
    with torch.no_grad():
        model.fc3.bias.fill_(0.0)
    counts = count(model, reader, Bce(name="bce"), valid(5, 2), strategy)
    outputs_BO, labels_B = outputs_and_labels(model, reader)
    metrics = counts.metrics("ab")
    expected = F.binary_cross_entropy_with_logits(outputs_BO[:, 0], labels_B.float())
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(((outputs_BO[:, 0] > 0) == labels_B).float().mean().item())


class OneOfThree(Comm):
    """A rank whose others are not there: it adds nothing to its own."""

    def __init__(self, rank: int) -> None:
        super().__init__(World())
        self.world = World(rank, 3, rank, 3)

    def agree_to_stop(self, also: bool = False) -> bool:
        return also

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def broadcast_buffers(self, model: nn.Module) -> None:
        pass


def test_processes_share_the_images_and_none_may_miss_one(
    reader: ShardReader, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes one after the other; their counts are added here."""
    model = lenet(3)
    alone = count(model, reader, CROSS_ENTROPY, valid(5), strategy).confusion_KK
    parts: list[torch.Tensor] = []
    monkeypatch.setattr(Counts, "reduce", lambda counts, _: parts.append(counts.confusion_KK))
    for rank in range(3):
        monkeypatch.setattr(strategy, "comm", OneOfThree(rank))
        with pytest.raises(AssertionError, match=r"valid: saw \d+ of 42 images"):
            count(model, reader, CROSS_ENTROPY, valid(5), strategy)
    assert torch.equal(torch.stack(parts).sum(0), alone)


class Modes(nn.Module):
    """Notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, torch.is_grad_enabled()))
        return images_BCHW.mean((2, 3)) * self.weight


def test_the_model_is_in_evaluation_mode_without_gradients(reader: ShardReader, strategy: Strategy) -> None:
    model = Modes()
    count(model, reader, CROSS_ENTROPY, valid(20), strategy)
    assert model.seen == [(False, False)] * 3


def test_evaluation_stops_between_two_batches_when_asked(reader: ShardReader, strategy: Strategy) -> None:
    model, answers = Modes(), iter([False, False, True])
    feed = ImageFeed(
        Loader(reader, 0, torch.device("cpu")), build_augment((), (0, 0, 0), (1, 1, 1)), strategy, 0, None, None
    )
    loss = build_loss(CROSS_ENTROPY, training=False)
    with pytest.raises(Stopped, match="stopped while evaluating valid; the same command evaluates it again"):
        evaluate(model, feed, loss, valid(10), strategy, lambda: next(answers))
    assert len(model.seen) == 2


def test_a_run_stopped_in_each_validation_resumes_exactly(workdir: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is at the end of a stage of freezing, and is done again before the next begins."""
    words = (LENET, STAGES, "train.epochs=3")
    assert workdir.train(*words, "run.dir=whole") == 0

    def stop_at(number: int) -> int:
        """Ask to stop in the evaluation's batch of this number since the program was started; the exit code."""
        calls = itertools.count(1)

        def counted(outputs_BO: torch.Tensor) -> torch.Tensor:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return class_scores(outputs_BO)

        with monkeypatch.context() as patch:
            patch.setattr("launcher.train.evaluate.class_scores", counted)
            return workdir.train(*words)

    batches = 2  # of a validation: nine images, five at a time
    assert [stop_at(1), stop_at(batches + 1), stop_at(batches + 1), stop_at(0)] == [75, 75, 75, 0]
    found, expected = workdir.path / "run", workdir.path / "whole"
    assert [record["step"] for record in events(found, "resumed")] == [3, 6, 9]
    assert workdir.losses() == workdir.losses("whole")
    evaluations = [
        [
            (record["split"], record["step"], record["weights_step"], record["loss"], record["accuracy"])
            for record in journal(folder)
            if record["kind"] == "eval"
        ]
        for folder in (found, expected)
    ]
    assert evaluations[0] == evaluations[1]
    for name in ("last", "best"):
        weights = [(folder / "checkpoints" / name / "model.safetensors").read_bytes() for folder in (found, expected)]
        assert weights[0] == weights[1], name
    for key in ("best", "valid", "test", "status"):
        assert summary(found)[key] == summary(expected)[key], key
