"""recipes/resnet18_cifar10_frozen_sgd.yaml end to end on CIFAR-shaped images, against the loop of tutorials.

    python benchmarks/frozen_cifar.py

22,000 images of 32 x 32 px, packed beforehand; batch 100, 5 epochs, a test at the end, random weights. Ours is the
whole program: start of Python, features, training, checkpoints, test. The tutorial's loop has its images decoded in
memory; float32, `model.train()`, a DataLoader of two workers. In turn; the last line is one JSON object of wall seconds
(median over rounds) and their ratio.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

RECIPE = Path(__file__).parent.parent / "recipes/resnet18_cifar10_frozen_sgd.yaml"
NUM_TRAIN, NUM_TEST = 20_000, 2_000
ROUNDS = int(os.environ.get("ROUNDS", "2"))


def make_images(folder: Path) -> None:
    """`folder/train/<class>` and `folder/test/<class>`: windows of scikit-learn's two photographs."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for split, number in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        for i in range(number):
            path = folder / split / f"class{i % 10}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            left, top = i * 37 % 600, i * 53 % 390
            photographs[i % 2].crop((left, top, left + 32, top + 32)).save(path, compress_level=1)


class InMemory(Dataset[tuple[Tensor, int]]):
    """Decoded images, transformed one by one when they are read."""

    def __init__(self, folder: Path) -> None:
        self.images = [(Image.open(path).copy(), int(path.parent.name[5:])) for path in sorted(folder.glob("*/*.png"))]
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.transform(image), label


def tutorial(train: InMemory, test: InMemory) -> float:
    """Wall seconds of five epochs and a test."""
    start = time.perf_counter()
    model = torchvision.models.resnet18().requires_grad_(False)
    model.fc = nn.Linear(512, 10)
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(5):
        model.train()
        for images_BCHW, labels_B in DataLoader(train, 100, shuffle=True, num_workers=2):
            optimizer.zero_grad()
            loss = cross_entropy(model(images_BCHW), labels_B)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()
    model.eval()
    with torch.no_grad():
        for images_BCHW, labels_B in DataLoader(test, 100, num_workers=2):
            (model(images_BCHW).argmax(1) == labels_B).sum().item()
    return time.perf_counter() - start


def ours(cwd: Path) -> float:
    """Wall seconds of the whole program; features of the round before are thrown away."""
    shutil.rmtree(cwd / "data/features", ignore_errors=True)
    overrides = ["data.source=null", "data.dir=shards", "data.split=null", "backbone.weights=none"]
    command = [sys.executable, "-m", "launcher", str(RECIPE), *overrides, "log.wandb.mode=disabled", "--fresh"]
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        make_images(cwd / "images")
        pack = [sys.executable, "-m", "shards", "pack", f"imagefolder:{cwd / 'images'}", str(cwd / "shards")]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
        train, test = InMemory(cwd / "images/train"), InMemory(cwd / "images/test")
        seconds: list[tuple[float, float]] = []
        for number in range(ROUNDS):
            seconds.append((tutorial(train, test), ours(cwd)))
            print(f"round {number + 1}: tutorial {seconds[-1][0]:.1f} s, ours {seconds[-1][1]:.1f} s", flush=True)
    metrics = {
        "tutorial_s": round(statistics.median(a for a, _ in seconds), 1),
        "ours_s": round(statistics.median(b for _, b in seconds), 1),
        "tutorial/ours": round(statistics.median(a / b for a, b in seconds), 2),
    }
    print(json.dumps({**metrics, "rounds": ROUNDS}))


if __name__ == "__main__":
    main()
