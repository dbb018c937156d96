"""The files that a probe wrote, and plain scikit-learn on the features that a hook on the same network sees.

N images, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from launcher.augment.execute import build_augment
from launcher.data.loader import Loader
from launcher.data.reader import ShardReader
from launcher.models.zoo import build_model
from launcher.recipe.augment import Resize
from launcher.recipe.backbone import Backbone
from shards.manifest import read_manifest
from tests.harness import runs

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Probed:
    """A finished probe. `shards`: its data; `out`: its output."""

    folder: Path
    shards: Path
    out: str

    @property
    def saved(self) -> Path:
        return self.folder / "checkpoints" / "best" / "model.safetensors"

    @property
    def summary(self) -> dict[str, Any]:
        return runs.summary(self.folder)


def new_probe(cwd: Path, shards: Path, out: str) -> Probed:
    folders = sorted((cwd / "runs" / "lenet_digits").glob("probe-*"), key=lambda path: path.stat().st_mtime_ns)
    return Probed(folders[-1], shards, out)


def read_split(shards: Path, split: str, side: int = 32) -> tuple[Tensor, Tensor]:
    """images_NCHW as in evaluation, and labels_N."""
    manifest = read_manifest(shards)
    reader = ShardReader(shards, manifest, split)
    loader = Loader(reader, 0, torch.device("cpu"))
    augment = build_augment((Resize(op="resize", size=(side, side)),), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    ids_N = np.arange(manifest.num_images(split), dtype=np.int64)
    [batch] = loader.batches([(0, ids_N)], lambda images, ids_B, view: augment(images, ids_B, 0, view))
    return batch.images_BChw, batch.labels_B


@torch.no_grad()
def enter_head(model: nn.Module, head: nn.Module, images_NCHW: Tensor) -> tuple[Array, Array]:
    """features_ND that a hook sees enter the head, and the probabilities_NK that come out at the end."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs_NK = model.eval()(images_NCHW)
    hook.remove()
    [values] = seen
    features_ND = values if values.ndim == 2 else values.mean(dim=(2, 3))
    return features_ND.double().numpy(), outputs_NK.double().softmax(dim=1).numpy()


def fit_pipeline(C: float, features_ND: Array, labels_N: Labels) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(features_ND, labels_N)


def check_against_sklearn(probed: Probed, name: str, side: int = 32) -> None:
    """The metrics equal those of a scikit-learn pipeline and of the saved network, on every split."""
    summary, num_classes = probed.summary, len(read_manifest(probed.shards).classes)
    network = build_model(Backbone(name=name, weights=str(probed.saved), head="keep"), num_classes)
    splits = [split for split in ("train", "valid", "test") if split in summary]
    images = {split: read_split(probed.shards, split, side) for split in splits}
    entered = {split: enter_head(network.model, network.head, each[0]) for split, each in images.items()}
    pipeline = fit_pipeline(summary["C"], entered["train"][0], images["train"][1].numpy())
    for split in splits:
        (features_ND, probabilities_NK), labels_N = entered[split], images[split][1].numpy()
        metrics, expected_NK = summary[split], pipeline.predict_proba(features_ND)
        assert metrics["num_images"] == len(labels_N)
        assert metrics["accuracy"] == pytest.approx(
            (expected_NK.argmax(1) == labels_N).mean(), abs=1.01 / len(labels_N)
        )
        assert metrics["loss"] == pytest.approx(log_loss(labels_N, expected_NK), rel=5e-3)
        assert np.abs(probabilities_NK - expected_NK).max() < 0.01
        saved_accuracy = (probabilities_NK.argmax(1) == labels_N).mean()
        assert metrics["accuracy"] == pytest.approx(saved_accuracy, abs=1.01 / len(labels_N))


class Untraceable(nn.Module):
    """A network whose control flow depends on its images."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc3 = nn.Linear(4, num_outputs)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        values_BCHW = self.conv(images_BCHW)
        if values_BCHW.sum() > 0:
            values_BCHW = -values_BCHW
        outputs_BK: Tensor = self.fc3(values_BCHW.mean(dim=(2, 3)))
        return outputs_BK
