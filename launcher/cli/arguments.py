"""Positional arguments that commands share, and dataclasses as their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter

T = TypeVar("T")

Flat = Annotated[T, Parameter(name="*")]
"""A frozen dataclass: each field is an option of the command, and its docstring the help."""

RecipeFile = Annotated[Path, Parameter(help="A YAML file; see recipes/.")]
Override = Annotated[str, Parameter(help="Values to change, as `key.path=value`.")]

Run = Annotated[Path, Parameter(help="A run's folder, `runs/NAME/DATE-...`, or one of its checkpoints.")]
NamedModel = Annotated[
    str,
    Parameter(help="A run's folder, one of its checkpoints, or `torchvision/NAME` for a network trained on ImageNet."),
]
Images = Annotated[str, Parameter(help="An image, a folder of images, a pattern, or a folder of shards.")]
MoreImages = Annotated[str, Parameter(help="More of them.")]
