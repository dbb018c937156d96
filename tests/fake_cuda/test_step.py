"""Training steps and evaluations on fake CUDA tensors: one device, and no host sync between two records.

The step, the evaluation, losses, groups, optimizers, clipping, moving average and metrics are the launcher's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models.vision_transformer import VisionTransformer

from launcher.augment.parameter_hash import NullParameterHashes
from launcher.checkpoint.state import TrainState
from launcher.data.feed import Examples
from launcher.data.ids import Ids, Work
from launcher.distributed.strategy import Strategy
from launcher.metrics.counts import Counts
from launcher.models.frozen.freeze import set_training
from launcher.models.loss import class_scores
from launcher.models.optim.build import build_groups, build_optimizer
from launcher.models.optim.ema import MovingAverage
from launcher.models.zoo import Network
from launcher.recipe.optim import Adam, Optim, Sgd
from launcher.run.run_log import NullLog
from launcher.train import evaluate as evaluation
from launcher.train.evaluate import EvalSplit, evaluate
from launcher.train.nonfinite import FailOnNonfinite, NonfinitePolicy, SkipNonfinite
from launcher.train.stage import Stage
from launcher.train.step import train_step
from launcher.train.step_log import StepResult, log_steps
from tests.fake_cuda.harness import CUDA, FakeCuda, HostSyncError, fake_cuda, to_fake_cuda
from tests.harness.workdir import LENET, Parts, WorkDir

BATCH, CLASSES = 6, 3
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # in copy.deepcopy


def build_resnet() -> Network:
    return Network(torchvision.models.resnet18(num_classes=CLASSES), "fc")


def build_vit() -> Network:
    model = VisionTransformer(32, 8, 2, 2, 32, 64, dropout=0.1, num_classes=CLASSES)
    return Network(model, "heads.head")


NETWORKS: dict[str, Callable[[], Network]] = {"resnet18": build_resnet, "vit": build_vit}
SGD = Sgd(name="sgd", lr=0.1, weight_decay=0.1, backbone_lr=0.01, clip_norm=1.0, ema_decay=0.9)
OPTIMS: dict[str, Optim] = {
    "sgd": SGD,
    "nesterov": SGD.model_copy(update={"nesterov": True}),
    "no momentum": SGD.model_copy(update={"momentum": 0.0}),
    "adam": Adam(name="adam", lr=0.1, clip_norm=1.0, ema_decay=0.9),
    "adamw": Adam(name="adamw", lr=0.1, weight_decay=0.1, clip_norm=1.0, ema_decay=0.9),
}


@dataclass(frozen=True)
class Training:
    parts: Parts
    stage: Stage

    @property
    def strategy(self) -> Strategy:
        return self.parts.job.strategy


@pytest.fixture(params=["no", "bf16"])
def training(request: pytest.FixtureRequest, workdir: WorkDir) -> Iterator[Training]:
    """A training of two micro batches a step, whose strategy believes that it is on a GPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    words = (LENET, "backbone.freeze=none", f"strategy.precision={request.param}", f"train.micro_batch={BATCH}")
    parts = workdir.build(*words)
    stage = parts.enter(0)
    strategy = parts.job.strategy
    strategy.device = CUDA
    for each in (strategy._accelerator.state, PartialState()):  # the second is read for autocast
        each.device = CUDA
    strategy._accelerator.device_placement = False  # fake parameters are there, and cannot be moved
    yield Training(parts, stage)
    parts.close()
    AcceleratorState._reset_state(reset_partial_state=True)


def on_cuda(training: Training, network: Network, optim: Optim) -> Training:
    """The same with this network and optimizer, on the fake GPU."""
    parts, stage, strategy = training.parts, training.stage, training.strategy
    job = replace(parts.job, recipe=parts.job.recipe.model_copy(update={"optim": optim}))
    network = replace(network, model=to_fake_cuda(network.model))
    groups = build_groups(optim, network.model, network.head_names, ())
    optimizer = strategy.prepare_optimizer(build_optimizer(optim, groups, strategy.precision))
    ema = None if optim.ema_decay is None else MovingAverage(network.model, optim.ema_decay)
    state: TrainState = replace(stage.state, network=network, optimizer=optimizer, ema=ema)
    set_training(network.model)
    model = strategy.wrap(network.model)
    stage = replace(stage, state=state, train_model=model, eval_model=state.eval_model)
    return Training(replace(parts, job=job), stage)


def examples_of(strategy: Strategy, ids_B: Ids, is_mixed: bool = False) -> Examples:
    images_BCHW = strategy.layout(torch.randn(len(ids_B), 3, 32, 32, device=CUDA))
    labels_B = torch.zeros(len(ids_B), dtype=torch.int64, device=CUDA)
    targets = torch.rand(len(ids_B), CLASSES, device=CUDA) if is_mixed else labels_B
    hashes_BD = NullParameterHashes().take(ids_B, 0)
    return Examples((images_BCHW,), labels_B, targets, torch.ones_like(labels_B), ids_B, images_BCHW, hashes_BD)


def take_steps(training: Training, steps: range, policy: NonfinitePolicy) -> list[StepResult]:
    """The second micro batch of each step is mixed."""
    ids_B = np.arange(BATCH)
    strategy = training.strategy
    batches = (examples_of(strategy, ids_B, is_mixed) for _ in steps for is_mixed in (False, True))
    return [train_step(training.parts.job, training.stage, batches, step, policy, NullLog()) for step in steps]


def tensors_of(state: TrainState) -> Iterator[Tensor]:
    """All that a step changes. The steps that an unfused Adam counts are on the host."""
    assert state.ema is not None
    yield from state.model.state_dict().values()
    yield from state.ema.module.state_dict().values()
    for values in state.optimizer.state.values():
        yield from (each for each in values.values() if isinstance(each, Tensor))


@pytest.mark.parametrize(("name", "optim"), [("resnet18", "sgd"), *(("vit", optim) for optim in OPTIMS)])
def test_steps_keep_to_the_gpu_and_never_wait(training: Training, name: str, optim: str) -> None:
    network = NETWORKS[name]()
    with fake_cuda() as seen:
        training = on_cuda(training, network, OPTIMS[optim])
        state = training.stage.state
        kinds: set[torch.dtype] = set()
        state.network.head.register_forward_hook(lambda _module, _given, output: kinds.add(output.dtype))
        results = take_steps(training, range(1, 3), FailOnNonfinite())
        assert all(result.loss.device == CUDA for result in results)
        assert all(each.device == CUDA for each in tensors_of(state))
        assert (len(state.optimizer.state) > 0) == (optim != "no momentum")
    assert kinds == {training.strategy.amp_dtype or torch.float32}
    assert (seen.copies, seen.waits) == ([], [])


def test_the_record_is_where_the_host_waits(training: Training) -> None:
    network = build_resnet()
    with fake_cuda():
        training = on_cuda(training, network, SGD)
        results = take_steps(training, range(1, 3), FailOnNonfinite())
        with pytest.raises(HostSyncError):
            log_steps(training.parts.job, training.parts.inputs.timer, NullLog(), results)


def test_skipping_steps_by_their_loss_waits_in_each_step(training: Training) -> None:
    """The user's choice, `train.on_nonfinite: skip`: the step must not be taken before the answer is there."""
    network = build_resnet()
    with fake_cuda():
        training = on_cuda(training, network, SGD)
        policy = SkipNonfinite(training.stage.state.model, training.strategy, NullLog())
        with pytest.raises(HostSyncError):
            take_steps(training, range(1, 2), policy)
        assert all(each.grad is not None for each in training.stage.state.model.parameters())  # not before


class MadeFeed:
    """Examples without images."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def batches(self, work: Work) -> Iterator[Examples]:
        for _, ids_B in work:
            yield examples_of(self._strategy, ids_B)


def evaluate_on_cuda(training: Training, network: Network) -> FakeCuda:
    with fake_cuda() as seen:
        training = on_cuda(training, network, SGD)
        stage, strategy = training.stage, training.strategy
        split = EvalSplit("valid", 9, CLASSES, BATCH)
        counts = evaluate(stage.eval_model, MadeFeed(strategy), stage.eval_loss, split, strategy)  # type: ignore[arg-type]
        found = (counts.total, counts.seen, counts.per_class_K2, counts.confusion_KK, counts.loss_sum)
        assert all(each.device == CUDA for each in found)
    return seen


@pytest.mark.parametrize("network", NETWORKS)
def test_an_evaluation_waits_for_its_totals_only(
    training: Training, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostSyncError):
        evaluate_on_cuda(training, NETWORKS[network]())
    monkeypatch.setattr(evaluation, "_check_total", lambda *_: None)
    seen = evaluate_on_cuda(training, NETWORKS[network]())
    assert (seen.copies, seen.waits) == ([], [])


@pytest.mark.parametrize("num_classes", [2, 10, 2000])
def test_counts_are_added_without_a_wait(num_classes: int) -> None:
    with fake_cuda() as seen:
        counts = Counts(num_classes, CUDA)
        outputs_BO = torch.randn(BATCH, 1 if num_classes == 2 else num_classes, device=CUDA)
        labels_B = torch.zeros(BATCH, dtype=torch.int64, device=CUDA)
        for _ in range(2):
            counts.add(class_scores(outputs_BO), labels_B, torch.rand(BATCH, device=CUDA), torch.ones_like(labels_B))
        assert counts.loss_sum.device == CUDA
        with pytest.raises(HostSyncError):
            counts.metrics([str(i) for i in range(num_classes)])
    assert (seen.copies, seen.waits) == ([], [])


def test_torchs_own_average_waits_in_each_step_and_ours_does_not() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with fake_cuda() as seen:
        to_fake_cuda(net)
        ours = MovingAverage(net, 0.9)
        theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)  # type: ignore[no-untyped-call]
        for _ in range(3):
            ours.update()
        theirs.update_parameters(net)  # the first is a copy
        with pytest.raises(HostSyncError, match="8 bytes to the GPU without non_blocking"):
            theirs.update_parameters(net)
    assert (seen.copies[:-1], seen.waits) == ([], [])
