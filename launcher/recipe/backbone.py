"""The `backbone` section: the network, its new head, and its frozen parts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from launcher.recipe.duration import Duration
from launcher.recipe.fields import Count, Length, Section


class Head(Section):
    """The layers that replace the backbone's classifier; the last one has one output per class."""

    hidden: tuple[Count, ...] = ()
    """Widths of the hidden linear layers. []: one linear layer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability of dropping a value before the last layer and after each hidden layer, in training."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Activation after each hidden layer."""


class ExceptLast(Section):
    """Everything but the head and the blocks just before it."""

    except_last: Count
    """Number of blocks that train beside the head: stages or layers of the network, in the order of its definition."""


def _kind(value: object) -> str:
    """Tag of the union member that `value` is meant to be: an error then describes that member alone."""
    if isinstance(value, list | tuple):
        return "names"
    return "blocks" if isinstance(value, dict | ExceptLast) else "word"


def _kind_or_stages(value: object) -> str:
    is_stages = isinstance(value, FreezeSchedule) or (isinstance(value, dict) and "schedule" in value)
    return "stages" if is_stages else _kind(value)


Word = Annotated[Literal["none", "backbone"], Tag("word")]
Blocks = Annotated[ExceptLast, Tag("blocks")]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), Tag("names")]
Parts = Annotated[Word | Blocks | Names, Discriminator(_kind)]


class FreezeStage(Section):
    """The frozen parts from one point of the training on."""

    at: Length
    """Length of training before this stage; 0 for the first one."""
    freeze: Parts
    """`none`, `backbone`, {except_last: N} or a list of names; never more than in the stage before."""


class FreezeSchedule(Section):
    """Freezing in stages, each of which sets more parts free."""

    schedule: Annotated[tuple[FreezeStage, ...], Field(min_length=1)]
    """Stages, the earliest first."""


class Backbone(Section):
    """The network."""

    name: str
    """Name of any torchvision classification model (`resnet50`, `vit_b_16`, ...), `timm/<name>`, `lenet` or
    `avatar_cnn`."""
    weights: str = "none"
    """Initial weights. `none`: random. `DEFAULT`, or a torchvision weights entry such as `IMAGENET1K_V2`: downloaded
    once. A path with a `/` in it, or one that ends in .safetensors, .pt or .pth: read from that file."""
    head: Head | Literal["keep"] = Head()
    """The new classifier. `keep`: the original one, for data with as many classes as it has outputs."""
    freeze: Annotated[
        Word | Blocks | Names | Annotated[FreezeSchedule, Tag("stages")], Discriminator(_kind_or_stages)
    ] = "none"
    """Frozen parts. `backbone`: only the head trains; the rest stays exactly as it is, BatchNorm statistics included.
    {except_last: 2}: the last two blocks train too. [layer1, 'features.*']: the parts that these names or patterns
    match are frozen. {schedule: [{at: 0, freeze: backbone}, {at: 2ep, freeze: none}]}: parts are set free during the
    training."""

    @property
    def weights_file(self) -> str | None:
        """`weights` if it is a file."""
        is_file = "/" in self.weights or self.weights.endswith((".safetensors", ".pt", ".pth"))
        return self.weights if is_file else None

    @property
    def weights_name(self) -> str | None:
        """`weights` if it names pretrained weights."""
        return self.weights if self.weights != "none" and self.weights_file is None else None

    @property
    def stages(self) -> tuple[FreezeStage, ...]:
        """Stages of freezing; a single one without a schedule."""
        if isinstance(self.freeze, FreezeSchedule):
            return self.freeze.schedule
        return (FreezeStage(at=Duration(0, "ep"), freeze=self.freeze),)
