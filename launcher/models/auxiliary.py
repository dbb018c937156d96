"""Auxiliary classifiers of GoogLeNet and Inception v3: they help training and are no part of evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Auxiliary:
    """`last_names`: last layer of each classifier. `weight`: of the loss of each, beside the main loss."""

    last_names: tuple[str, ...]
    weight: float

    @property
    def names(self) -> tuple[str, ...]:
        """The whole classifiers."""
        return tuple(name.partition(".")[0] for name in self.last_names)


AUXILIARY: dict[str, Auxiliary] = {
    # Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, section 5: "weighted by 0.3".
    "googlenet": Auxiliary(("aux1.fc2", "aux2.fc2"), 0.3),
    # https://arxiv.org/abs/1512.00567 gives no number; 0.4 is from its authors' code (tensorflow/models,
    # slim/train_image_classifier.py) and of PyTorch's fine-tuning tutorial.
    "inception_v3": Auxiliary(("AuxLogits.fc",), 0.4),
}


def remove_auxiliary(model: nn.Module, auxiliary: Auxiliary) -> None:
    """Remove them, when layers are frozen: their gradients are for those."""
    for name in auxiliary.names:
        setattr(model, name, None)
    model.aux_logits = False  # type: ignore[assignment]
