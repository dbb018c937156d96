"""The whole program against a bare loop of the same model, batch and precision, its images on the device, normalised.

Ours is `python -m launcher` on shards of pictures of the network's size, which reads, decodes, normalises and keeps
records; its speed is what it writes in its journal, a record each LAP steps. B batch, C channels, H height, W width.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from input_pictures import NUM_CLASSES, list_pictures, make_squares, pack
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from launcher.models.lenet import LeNet

LAPS = 4
"""Of these the first does not count."""
SHORTER = float(os.environ.get("SHORTER", "1"))
"""Divides the steps of a lap, for a trial."""


@dataclass(frozen=True, slots=True)
class Job:
    backbone: str
    side: int
    """Pixels."""
    suffix: str
    num_images: int
    batch: int
    precision: str
    lap_on_cpu: int
    """Steps."""
    lap_on_gpu: int

    @property
    def lap(self) -> int:
        return max(1, int((self.lap_on_gpu if torch.cuda.is_available() else self.lap_on_cpu) / SHORTER))


JOBS = {
    "lenet128": Job("lenet", 32, "png", 2560, 128, "no", 200, 1000),
    "lenet8": Job("lenet", 32, "png", 2560, 8, "no", 1000, 3000),
    "resnet18": Job("resnet18", 224, "jpg", 128, 32, "bf16", 2, 100),
}

RECIPE = """
backbone: {{name: {job.backbone}, weights: none}}
data: {{dir: {dir}}}
augment:
  train: [{{op: center_crop, size: {job.side}}}]
  eval: [{{op: center_crop, size: {job.side}}}]
  mean: [0.5, 0.5, 0.5]
  std: [0.5, 0.5, 0.5]
optim: {{name: adam, lr: 1.0e-4}}
train: {{epochs: {steps}st, evaluate_every: {steps}st, global_batch: {job.batch}}}
strategy: {{precision: {precision}}}
checkpoint: {{every: null}}
log: {{every: {job.lap}st, wandb: {{mode: disabled}}}}
run: {{dir: {run}}}
"""


def prepare(folder: Path) -> None:
    """Pictures and shards for each network."""
    for job in {job.backbone: job for job in JOBS.values()}.values():
        pictures = make_squares(folder / f"{job.backbone}_pictures", job.num_images, job.side, job.suffix)
        pack(pictures, folder / f"{job.backbone}_shards")


def program(folder: Path, name: str) -> float:
    """Images/s of the program: the median of its records."""
    job = JOBS[name]
    run = folder / "runs" / f"{name}-{time.time_ns()}"
    file = folder / f"{name}.yaml"
    shards, precision = folder / f"{job.backbone}_shards", f'"{job.precision}"'
    file.write_text(RECIPE.format(job=job, dir=shards, precision=precision, steps=LAPS * job.lap, run=run))
    subprocess.run([sys.executable, "-m", "launcher", str(file)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    records = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    speeds: list[float] = [record["images_per_s"] for record in records if record["kind"] == "train"]
    assert len(speeds) == LAPS, speeds
    return statistics.median(speeds[1:])


def bare(folder: Path, name: str) -> float:
    """Images/s of the bare loop: the median of its laps."""
    job = JOBS[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = LeNet(NUM_CLASSES) if job.backbone == "lenet" else torchvision.models.resnet18(num_classes=NUM_CLASSES)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    batches = _resident_batches(folder / f"{job.backbone}_pictures", job, device)
    speeds = [_lap(model, optimizer, batches, job, device) for _ in range(LAPS)]
    return statistics.median(speeds[1:])


def _lap(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: list[tuple[Tensor, Tensor]],
    job: Job,
    device: torch.device,
) -> float:
    start = time.perf_counter()
    for step in range(job.lap):
        images_BCHW, labels_B = batches[step % len(batches)]
        with torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bf16"):
            outputs_BK = model(images_BCHW)
        loss = cross_entropy(outputs_BK.float(), labels_B)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    loss.item()  # all is done when it is known
    return job.lap * job.batch / (time.perf_counter() - start)


def _resident_batches(folder: Path, job: Job, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    paths = list_pictures(folder)
    order = np.random.default_rng(0).permutation(len(paths))
    images = np.stack([np.asarray(Image.open(paths[i])) for i in order])
    images_BCHW = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).to(device)
    labels_B = torch.tensor([int(paths[i].parent.name[5:]) for i in order], device=device)
    starts = range(0, len(paths) - job.batch + 1, job.batch)
    return [(images_BCHW[i : i + job.batch], labels_B[i : i + job.batch]) for i in starts]
