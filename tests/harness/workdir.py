"""Small trainings with a frozen part, in this process, and the plain torch loop that they must equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from launcher.augment.execute import build_augment
from launcher.checkpoint.state import TrainState
from launcher.data.loader import Loader
from launcher.data.order import build_order
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World
from launcher.models.frozen.freeze import freeze, set_training
from launcher.models.zoo import build_model
from launcher.recipe.parse import LoadedRecipe, load_recipe
from launcher.run.folder import open_run
from launcher.run.run_log import RunLog
from launcher.train import main as train
from launcher.train.inputs import Inputs, build_inputs
from launcher.train.job import Job, build_state, open_job, open_run_log
from launcher.train.options import TrainOptions
from launcher.train.prepare import plan_run
from launcher.train.stage import Stage, enter_stage
from shards.manifest import read_manifest
from tests.harness.runs import Record, events, train_records

TEXT = """
backbone: {name: shufflenet_v2_x0_5, freeze: backbone}
data: {dir: shards, workers: 1}
augment:
  train: [{op: resize, size: [32, 32]}]
  eval: [{op: resize, size: [32, 32]}]
  mean: [0.5, 0.5, 0.5]
  std: [0.25, 0.25, 0.25]
optim: {name: sgd, lr: 0.002, momentum: 0.9}
schedule: {name: constant}
strategy: {device: cpu, compile: "off"}
train: {epochs: 2, global_batch: 12, eval_batch: 5}
checkpoint: {every: null}
run: {dir: run}
log: {every: 1st, wandb: {mode: disabled}}
"""

LENET = "backbone.name=lenet"
STAGES = (
    "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 1, freeze: {except_last: 1}}, {at: 2, freeze: none}]}"
)
FLIPS = "augment.train=[{op: random_crop, size: 32, padding: 4}, {op: horizontal_flip}]"


@dataclass(frozen=True)
class Parts:
    """What a training is made of."""

    job: Job
    state: TrainState
    inputs: Inputs
    log: RunLog

    def enter(self, number: int, step: int = 0) -> Stage:
        return enter_stage(self.job, self.state, self.inputs, number, step, self.log)

    def close(self) -> None:
        self.inputs.close()
        self.log.close()
        self.job.run.release()


@dataclass(frozen=True)
class WorkDir:
    """A folder to train in. The working directory: `data/features` and run folders are in it."""

    path: Path
    patch: pytest.MonkeyPatch

    def load(self, *overrides: str) -> LoadedRecipe:
        return load_recipe(self.path / "small.yaml", overrides)

    def train(self, *overrides: str) -> int:
        """As `launcher RECIPE` does, without its hold of Python's warnings."""
        with self.patch.context() as patch:
            patch.setattr(train, "log_warnings", lambda: None)
            return train.main(self.load(*overrides), TrainOptions())

    def build(self, *overrides: str) -> Parts:
        """All that `train` builds before it enters a stage."""
        loaded = self.load(*overrides)
        recipe = loaded.recipe
        strategy = build_strategy(recipe.strategy, World(), recipe.run.seed, False)
        job = open_job(loaded, recipe, strategy, open_run)
        log = open_run_log(job)
        return Parts(job, build_state(job), build_inputs(job, log.say), log)

    def losses(self, run: str = "run") -> list[float]:
        return [record["loss"] for record in train_records(self.path / run).values()]

    def said(self, run: str = "run") -> list[str]:
        """What was said about the frozen part."""
        return [record["message"] for record in events(self.path / run, "frozen_part")]

    def kept(self) -> list[Record]:
        """What the features that are there were made of."""
        return [json.loads(path.read_text()) for path in (self.path / "data/features").glob("*/features.json")]

    def count_reads(self) -> list[int]:
        """Ids of the images that are read from shards from now on."""
        read, ids = ShardReader.read, []

        def counted(reader: ShardReader, i: int) -> object:
            ids.append(i)
            return read(reader, i)

        self.patch.setattr(ShardReader, "read", counted)
        return ids


def make_workdir(path: Path, shards: Path, patch: pytest.MonkeyPatch) -> WorkDir:
    path.mkdir(parents=True, exist_ok=True)
    (path / "small.yaml").write_text(TEXT)
    (path / "shards").symlink_to(shards)
    patch.chdir(path)
    torch.set_num_threads(1)
    return WorkDir(path, patch)


def plain_images(loaded: LoadedRecipe, split: str) -> tuple[Tensor, Tensor]:
    """All images of a split as the network sees them, and their labels."""
    augment = loaded.recipe.augment
    folder = loaded.recipe.data.folder
    reader = ShardReader(folder, read_manifest(folder), split)
    num = read_manifest(folder).num_images(split)
    ops = augment.train if split == "train" else augment.eval_ops
    mean, std = augment.normalisation((0, 0, 0), (1, 1, 1))
    apply = build_augment(ops, mean, std)
    work = [(0, np.arange(num))]
    [batch] = Loader(reader, 0, torch.device("cpu")).batches(work, lambda images, ids_B, _: apply(images, ids_B, 0, 0))
    return batch.images_BChw, batch.labels_B


def plain_training(loaded: LoadedRecipe) -> tuple[list[float], dict[str, float], nn.Module]:
    """Losses of all steps, then the loss on valid and on test: the whole network, step by step, with plain SGD."""
    recipe = loaded.recipe
    manifest = read_manifest(recipe.data.folder)
    plan = plan_run(loaded, recipe, 1, manifest)
    torch.manual_seed(recipe.run.seed)
    network = build_model(recipe.backbone, 3)
    model = network.model
    freeze(network, recipe.backbone.stages[0].freeze)
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(free, lr=recipe.optim.lr, momentum=0.9)
    images_BCHW, labels_B = plain_images(loaded, "train")
    losses = []
    order = build_order(plan, manifest, recipe.run.seed)
    set_training(model)
    for step in range(1, plan.total_steps + 1):
        ids_B = torch.from_numpy(order.global_batch_ids(step))
        loss = F.cross_entropy(model(images_BCHW[ids_B]), labels_B[ids_B])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    metrics = {}
    for split in ("valid", "test"):
        images_BCHW, labels_B = plain_images(loaded, split)
        with torch.no_grad():
            metrics[split] = F.cross_entropy(model(images_BCHW), labels_B).item()
    return losses, metrics, model
