"""The predictions for every image of a split: gathered from all ranks, kept for comparing runs.

N images, B batch, K classes, T the best classes of each image.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from launcher.data.feed import Examples
from launcher.distributed.comm import Comm
from shards.files import write_atomically

TOP = 5
BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017, On Calibration of Modern Neural Networks."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """In the order of ids."""

    ids_N: Integers
    labels_N: Integers
    top_NT: Integers
    """Class numbers, the most probable first."""
    probs_NT: Floats
    label_probs_N: Floats
    """Probability of the true class."""
    losses_N: Floats
    """Nats."""

    @property
    def is_right_N(self) -> npt.NDArray[np.bool_]:  # noqa: N802 - as the fields
        return np.asarray(self.top_NT[:, 0] == self.labels_N)

    @property
    def mean_loss(self) -> float:
        """Summed exactly, so that the order does not matter; NaN and infinity stay."""
        losses = self.losses_N.astype(np.float64)
        return math.fsum(losses) / len(losses) if np.isfinite(losses).all() else float(losses.mean())

    @property
    def ece(self) -> float:
        return expected_calibration_error(self.probs_NT[:, 0], self.is_right_N)

    def worst(self, number: int) -> Integers:
        """Rows of the most confident mistakes, the worst first."""
        wrong = np.flatnonzero(~self.is_right_N)
        order = np.argsort(-self.probs_NT[wrong, 0], kind="stable")
        rows: Integers = wrong[order[:number]]
        return rows


def expected_calibration_error(confidences_N: npt.NDArray[np.floating], is_right_N: npt.NDArray[np.bool_]) -> float:
    """Mean over images of |confidence - accuracy| of their bin; the bins are of equal width.

    A bin includes its lower bound; the last includes 1, too.
    """
    confidences_N = confidences_N.astype(np.float64)
    number_N = np.searchsorted(np.linspace(0, 1, BINS + 1), confidences_N, side="right") - 1
    gaps = np.bincount(np.clip(number_N, 0, BINS - 1), confidences_N - is_right_N)
    return float(np.abs(gaps).sum() / len(confidences_N))


@dataclass
class Collector:
    """Collects the predictions of this rank. `add` is an `OnBatch` of `evaluate`."""

    show: Callable[[int], None]
    """Called with the number of images that this rank has done."""
    parts: list[Predictions] = field(default_factory=list)
    num_done: int = 0

    def add(self, examples: Examples, scores_BK: Tensor, losses_B: Tensor) -> None:
        counted_B = examples.weights_B > 0
        probs_BK = scores_BK.float().softmax(dim=1)
        probs_BT, top_BT = probs_BK.topk(min(TOP, probs_BK.shape[1]), dim=1)
        label_probs_B = probs_BK.gather(1, examples.labels_B[:, None])[:, 0]
        tensors = (examples.labels_B, top_BT, probs_BT, label_probs_B, losses_B.float())
        ids_B = examples.ids_B[counted_B.cpu().numpy()]
        self.parts.append(Predictions(ids_B, *(tensor[counted_B].cpu().numpy() for tensor in tensors)))
        self.num_done += int((examples.ids_B >= 0).sum())
        self.show(self.num_done)

    def gather(self, comm: Comm, name_of: Callable[[int], str]) -> tuple[Predictions, list[str]]:
        """The predictions of all ranks and the images' names, on every rank."""
        mine = [_join(self.parts)] if self.parts else []
        names = [name_of(i) for part in mine for i in part.ids_N.tolist()]
        parts = comm.all_gather_object((mine, names))
        everything = _join([part for each, _ in parts for part in each])
        assert (np.diff(everything.ids_N) > 0).all(), "portions of a split are in order, and disjoint"
        return everything, [name for _, each in parts for name in each]


def write_predictions(predictions: Predictions, names: Sequence[str], classes: Sequence[str], path: Path) -> None:
    """A compressed NumPy archive without pickles: `name`, `label`, `top`, `prob`, `label_prob`, `loss` for each image,
    and `classes`. Raise OSError when it cannot be written."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        name=np.array(names, dtype=np.str_),
        label=predictions.labels_N.astype(np.int32),
        top=predictions.top_NT.astype(np.int32),
        prob=predictions.probs_NT,
        label_prob=predictions.label_probs_N,
        loss=predictions.losses_N,
        classes=np.array(classes, dtype=np.str_),
    )
    write_atomically(path, stream.getvalue())


def _join(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Predictions)))
