"""The `backbone` section: the network, its new head, and which of its parts are held still."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from launcher.recipe.duration import Duration
from launcher.recipe.fields import Count, Length, Section


class Head(Section):
    """The layers that replace the backbone's classifier; the last one has an output per class."""

    hidden: tuple[Count, ...] = ()
    """Widths of hidden linear layers. []: one linear layer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of values dropped before the last layer, and after each hidden one, in training."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Follows each hidden layer."""


class ExceptLast(Section):
    """Everything but the head and the blocks just before it."""

    except_last: Count
    """How many blocks train beside the head: stages or layers of the network, in the order in which it defines them."""


def _kind(value: object) -> str:
    """Which member of the union `value` is meant to be, so that an error speaks of that one alone."""
    if isinstance(value, list | tuple):
        return "names"
    return "blocks" if isinstance(value, dict | ExceptLast) else "word"


def _kind_or_stages(value: object) -> str:
    is_stages = isinstance(value, FreezeSchedule) or (isinstance(value, dict) and "schedule" in value)
    return "stages" if is_stages else _kind(value)


Word = Annotated[Literal["none", "backbone"], Tag("word")]
Blocks = Annotated[ExceptLast, Tag("blocks")]
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    Tag("names"),
]
Parts = Annotated[Word | Blocks | Names, Discriminator(_kind)]


class FreezeStage(Section):
    """What is frozen from one point of the training on."""

    at: Length
    """Length of training before it. The first stage is at 0."""
    freeze: Parts
    """`none`, `backbone`, {except_last: N} or a list of names. Never more than in the stage before."""


class FreezeSchedule(Section):
    """Freezing that is lifted piece by piece."""

    schedule: Annotated[tuple[FreezeStage, ...], Field(min_length=1)]
    """Stages in the order of their beginnings."""


class Backbone(Section):
    """The network."""

    name: str
    """Any torchvision classification model (`resnet50`, `vit_b_16`, ...), `timm/<name>`, `lenet` or `avatar_cnn`."""
    weights: str = "none"
    """`none`: random. `DEFAULT`, or a torchvision weights entry such as `IMAGENET1K_V2`: downloaded once. A path with a
    `/` in it, or one that ends in .safetensors, .pt or .pth: weights of that file."""
    head: Head | Literal["keep"] = Head()
    """The new classifier. `keep`: the original one, for data of as many classes as it has outputs."""
    freeze: Annotated[
        Word | Blocks | Names | Annotated[FreezeSchedule, Tag("stages")], Discriminator(_kind_or_stages)
    ] = "none"
    """`backbone`: only the head trains; the rest is held exactly as it is, BatchNorm statistics included.
    {except_last: 2}: the last two blocks train too. [layer1, 'features.*']: what these names or patterns match is held.
    {schedule: [{at: 0, freeze: backbone}, {at: 2ep, freeze: none}]}: parts are set free as the training goes on."""

    @property
    def weights_file(self) -> str | None:
        """`weights` where that is a file."""
        is_file = "/" in self.weights or self.weights.endswith((".safetensors", ".pt", ".pth"))
        return self.weights if is_file else None

    @property
    def weights_name(self) -> str | None:
        """`weights` where that names pretrained ones."""
        return self.weights if self.weights != "none" and self.weights_file is None else None

    @property
    def stages(self) -> tuple[FreezeStage, ...]:
        """What is frozen when; a single stage where that never changes."""
        if isinstance(self.freeze, FreezeSchedule):
            return self.freeze.schedule
        return (FreezeStage(at=Duration(0, "ep"), freeze=self.freeze),)
